"""Expandable segments: a long range of addresses, backed with memory page by page.

Source: `ExpandableSegment`, `find_expandable_block`, `map_block` and `unmap_block` in
c10/cuda/CUDACachingAllocator.cpp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vramplan.allocator.blocks import ALLOCATED, FREE, PENDING, UNMAPPED, Block, Pool
from vramplan.allocator.sizes import round_up

if TYPE_CHECKING:
    from vramplan.allocator.caching import CachingAllocator


class ExpandableSegment:
    """A range of addresses.

    Attributes:
        address: its first.
        size: how many it has.
        page_bytes: the unit in which memory is mapped: 2 MiB for small blocks, 20 MiB for large ones by default.
        head: the block at its first address.
    """

    __slots__ = ("address", "head", "page_bytes", "size")

    def __init__(self, address: int, size: int, pool: Pool, page_bytes: int) -> None:
        self.address = address
        self.size = size
        self.page_bytes = page_bytes
        self.head = Block(address, size, pool, None, None, self)
        self.head.state = UNMAPPED


def grow(allocator: CachingAllocator, pool: Pool, size: int) -> Block | None:
    """A free block, not in the pool, of at least `size` bytes, partly or wholly newly mapped; None without room."""
    block = _lowest_room(pool, size) or _new_segment(allocator, pool, size).head
    if block.state == UNMAPPED:
        mapped = _map(allocator, block, min(block.size, size))
        if mapped is None:
            return None
        block = mapped
    while block.size < size:
        after = block.next
        assert after is not None  # _lowest_room has seen enough addresses
        mapped = _map(allocator, after, min(after.size, size - block.size))
        if mapped is None:
            return None
        block = mapped
    pool.remove(block)
    return block


def unmap(allocator: CachingAllocator, block: Block) -> None:
    """Gives the whole pages inside a free block back to the device, and the segment if nothing else is in it."""
    segment = block.expandable
    assert segment is not None
    start, end = _whole_pages(block, segment)
    if start >= end:
        return
    pool = block.pool
    pool.remove(block)
    if end < block.address + block.size:
        pool.add(_cut(block, end - block.address))
    if start > block.address:
        pages = _cut(block, start - block.address)
        pool.add(block)
        block = pages
    block.state = UNMAPPED
    allocator.device.unmap(block.address, block.size, pool.stream)
    allocator.count_reserved(-block.size)
    after, before = block.next, block.prev
    if after is not None and after.state == UNMAPPED:
        pool.remove_unmapped(after)
        _join(block)
    if before is not None and before.state == UNMAPPED:
        pool.remove_unmapped(before)
        _join(before)
        block = before
    if block.is_whole_segment:
        allocator.expandable_segments.remove(segment)
        allocator.device.unreserve(segment.address, segment.size)
    else:
        pool.add_unmapped(block)


def has_free_page(block: Block) -> bool:
    """Whether a free block of an expandable segment covers a whole page."""
    assert block.expandable is not None
    start, end = _whole_pages(block, block.expandable)
    return start < end


def _whole_pages(block: Block, segment: ExpandableSegment) -> tuple[int, int]:
    """Where the pages begin and end that a block covers wholly; the begin is not below the end if it covers none."""
    base, page = segment.address, segment.page_bytes
    return base + round_up(block.address - base, page), base + (block.address + block.size - base) // page * page


def _new_segment(allocator: CachingAllocator, pool: Pool, size: int) -> ExpandableSegment:
    """A segment with room for a block of `size` bytes; the real one fails later where the device is smaller."""
    page = allocator.page_bytes(pool)
    num_bytes = round_up(max(allocator.device.address_space_bytes(), size), page)
    segment = ExpandableSegment(allocator.device.reserve(num_bytes), num_bytes, pool, page)
    allocator.expandable_segments.append(segment)
    pool.add_unmapped(segment.head)
    return segment


def _lowest_room(pool: Pool, size: int) -> Block | None:
    """The lowest free or unmapped block from which on `size` bytes of addresses are not in use."""
    for block in pool.unmapped:
        before = block.prev
        first = before if before is not None and before.state == FREE else block
        room, at = 0, first
        while room < size and at is not None and at.state not in (ALLOCATED, PENDING):
            room += at.size
            at = at.next  # type: ignore[assignment]
        if room >= size:
            return first
    return None


def _map(allocator: CachingAllocator, block: Block, num_bytes: int) -> Block | None:
    """Backs the first `num_bytes` of an unmapped block; the free block that they are now in, or None without room."""
    segment = block.expandable
    assert segment is not None
    num_bytes = round_up(num_bytes, segment.page_bytes)
    if not allocator.device.map(block.address, num_bytes, block.pool.stream):
        return None
    pool = block.pool
    pool.remove_unmapped(block)
    if num_bytes < block.size:
        rest = _cut(block, num_bytes)
        rest.state = UNMAPPED
        pool.add_unmapped(rest)
    block.state = FREE
    after, before = block.next, block.prev
    if after is not None and after.state == FREE:
        pool.remove(after)
        _join(block)
    if before is not None and before.state == FREE:
        pool.remove(before)
        _join(before)
        block = before
    pool.add(block)
    allocator.count_reserved(num_bytes)
    return block


def _cut(block: Block, num_bytes: int) -> Block:
    """Shortens a block to `num_bytes` and returns what is left of it, linked behind it."""
    rest = Block(block.address + num_bytes, block.size - num_bytes, block.pool, block, block.next, block.expandable)
    if block.next is not None:
        block.next.prev = rest
    block.next = rest
    block.size = num_bytes
    return rest


def _join(block: Block) -> None:
    """Takes the block behind it into `block`."""
    other = block.next
    assert other is not None
    block.size += other.size
    block.next = other.next
    if other.next is not None:
        other.next.prev = block
