"""PyTorch's CUDA caching allocator as a pure model: sizes and places of blocks, segments and peaks.

Nothing is imported here: `vramplan estimate` needs `plain` alone, and must not pay for the rest.
"""
