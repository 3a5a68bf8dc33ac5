"""PyTorch's CUDA caching allocator as a pure model: sizes and places of blocks, segments and peaks."""

from vramplan.allocator.caching import CachingAllocator
from vramplan.allocator.config import AllocatorConfig
from vramplan.allocator.oom import OutOfMemory
from vramplan.allocator.replay import ReplayResult, replay

__all__ = ["AllocatorConfig", "CachingAllocator", "OutOfMemory", "ReplayResult", "replay"]
