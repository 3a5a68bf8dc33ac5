"""Giving memory back to the device: the whole cache, some large blocks, or old ones.

Source: `release_cached_blocks`, `release_available_cached_blocks` and `garbage_collect_cached_blocks` in
c10/cuda/CUDACachingAllocator.cpp.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from vramplan.allocator import expandable
from vramplan.allocator.blocks import ADDRESS_BITS, NO_LIMIT, Block, Pool

if TYPE_CHECKING:
    from vramplan.allocator.caching import CachingAllocator


def release_block(allocator: CachingAllocator, block: Block) -> None:
    """Gives back the segment that a free block fills."""
    block.pool.remove(block)
    del allocator.heads[block.address]
    allocator.device.free(block.address, block.size, block.pool.stream)
    allocator.count_reserved(-block.size)


def release_cached(allocator: CachingAllocator) -> None:
    """Gives back every segment and every page that is free as a whole, but for memory pools of their own.

    Those keep theirs until their owner lets go of them, which no request says.
    """
    for pool in allocator.pools():
        if pool.is_private:
            continue
        for block in list(pool.blocks):
            if block.expandable is not None:
                expandable.unmap(allocator, block)
            elif block.is_whole_segment:
                release_block(allocator, block)


def is_anything_releasable(allocator: CachingAllocator) -> bool:
    """Whether `release_cached` would give anything back."""
    return any(
        block.is_whole_segment if block.expandable is None else expandable.has_free_page(block)
        for pool in allocator.pools()
        if not pool.is_private
        for block in pool.blocks
    )


def release_oversize(allocator: CachingAllocator, pool: Pool, size: int) -> bool:
    """Under `max_split_size`: gives back just enough blocks that are never split; whether that could suffice."""
    limit = allocator.max_split_size
    if limit == NO_LIMIT:
        return False
    wanted = max(size, limit)
    index = bisect_left(pool.keys, wanted << ADDRESS_BITS)
    if index < len(pool.blocks) and pool.blocks[index].expandable is None:
        release_block(allocator, pool.blocks[index])
        return True
    # No single block is enough: the largest ones, until their sum is.
    released = 0
    for block in reversed(pool.blocks[:index]):
        if released >= wanted or block.size < limit:
            break
        if block.expandable is None:
            released += block.size
            release_block(allocator, block)
    return released >= wanted


def collect_garbage(allocator: CachingAllocator, above_bytes: int) -> None:
    """Gives back free large segments, the longest unused first, while more than `above_bytes` are reserved."""
    target = allocator.reserved_bytes - above_bytes
    if target <= 0:
        return
    candidates = [
        block
        for pool in allocator.pools()
        if not (pool.is_small or pool.is_private)
        for block in pool.blocks
        if block.is_whole_segment and block.expandable is None
    ]
    reclaimed = 0
    while reclaimed < target and candidates:
        mean_age = sum(_age(block) for block in candidates) / len(candidates)
        # All that are older than the mean go, also past the target: the next collection shall not be soon.
        for block in candidates:
            if _age(block) >= mean_age:
                reclaimed += block.size
                release_block(allocator, block)
        candidates = [block for block in candidates if block.address in allocator.heads]


def _age(block: Block) -> int:
    """How many searches its pool has seen since it was freed."""
    return block.pool.num_searches - block.born
