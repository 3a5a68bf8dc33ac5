"""The search for a free block where the plain best fit is not the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vramplan.allocator.blocks import UNMAPPED, Block, Pool

if TYPE_CHECKING:
    from vramplan.allocator.caching import CachingAllocator


def find_free(allocator: CachingAllocator, pool: Pool, size: int, index: int) -> int:
    """Where in `pool.blocks` the block for a request is; past the end when there is none.

    Args:
        allocator: whose settings hold.
        pool: where to look.
        size: of the request, rounded.
        index: of the best fit: the smallest block of at least `size` bytes.
    """
    blocks = pool.blocks
    if allocator.gc_above_bytes is not None:
        pool.num_searches += 1
    if index == len(blocks):
        return index
    if pool.is_expandable:
        # A block at the end of what is mapped counts as large as it could grow: it is kept for later.
        while (
            blocks[index].expandable is not None
            and index + 1 < len(blocks)
            and _growable_bytes(blocks[index + 1]) < _growable_bytes(blocks[index])
        ):
            index += 1
    elif blocks[index].expandable is not None:
        # They were turned off since: only blocks of other segments are given out.
        while index < len(blocks) and blocks[index].expandable is not None:
            index += 1
        if index == len(blocks):
            return index
    found = blocks[index].size
    limit = allocator.max_split_size
    if size < limit <= found:
        return len(blocks)
    if size >= limit and found >= size + allocator.max_non_split_rounding:
        return len(blocks)
    return index


def _growable_bytes(block: Block) -> int:
    after = block.next
    return block.size + (after.size if after is not None and after.state == UNMAPPED else 0)
