"""What one tensor counts for in `torch.cuda.memory_allocated`."""

from __future__ import annotations

from vramplan.allocator.sizes import MIN_DEDICATED_BYTES, SMALL_BYTES, block_bytes, segment_bytes


def allocated(num_bytes: int) -> int:
    """Bytes of the block that holds a tensor of `num_bytes`.

    A block in a segment of its own keeps a rest of up to 1 MiB (c10/cuda/CUDACachingAllocator.cpp, should_split), and
    that rest counts as allocated.
    """
    size = block_bytes(num_bytes)
    if size < MIN_DEDICATED_BYTES:
        return size
    segment = segment_bytes(size)
    return segment if segment - size <= SMALL_BYTES else size
