"""The allocator's state as segment records, out of it and into it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby, pairwise

from vramplan.allocator.blocks import ALLOCATED, DEFAULT_POOL, FREE, PENDING, UNMAPPED, Block, Pool
from vramplan.allocator.caching import CachingAllocator
from vramplan.allocator.expandable import ExpandableSegment
from vramplan.allocator.layout import Layout
from vramplan.allocator.sizes import round_up
from vramplan.allocator.snapshot import BlockRecord, Frame, SegmentRecord


def segments_of(
    allocator: CachingAllocator, device: int = 0, frames: Mapping[int, tuple[Frame, ...]] | None = None
) -> tuple[SegmentRecord, ...]:
    """Its segments, by address; of an expandable one each contiguous mapped range, as PyTorch reports them.

    Args:
        allocator: whose state it is.
        device: what to call its device.
        frames: the stacks of active blocks, by address.
    """
    chains = [list(chain(head)) for head in allocator.heads.values()]
    for segment in allocator.expandable_segments:
        for is_mapped, blocks in groupby(chain(segment.head), lambda block: block.state != UNMAPPED):
            if is_mapped:
                chains.append(list(blocks))
    records = (_record(blocks, device, frames or {}) for blocks in chains)
    return tuple(sorted(records, key=lambda record: record.address))


def restore(allocator: CachingAllocator, segments: Iterable[SegmentRecord], layout: Layout) -> dict[int, Block]:
    """Puts a fresh allocator into a recorded state; its active blocks by address.

    Args:
        allocator: without a block or a segment.
        segments: the state. The peaks start at what it holds.
        layout: where expandable segments begin.
    """
    active: dict[int, Block] = {}
    ranges: dict[tuple[int, Pool], list[SegmentRecord]] = {}
    for record in segments:
        pool = allocator.pools_of(record.owner)[not record.is_small]
        if record.is_expandable:
            ranges.setdefault((layout.base_of(record.address), pool), []).append(record)
        else:
            blocks = _blocks(record, pool, None)
            allocator.heads[record.address] = blocks[0]
            _link(blocks)
            _take_in(allocator, blocks, active)
    for (base, pool), records in ranges.items():
        blocks = _expandable(allocator, base, pool, sorted(records, key=lambda record: record.address))
        _link(blocks)
        _take_in(allocator, blocks, active)
    allocator.peak_allocated_bytes = allocator.allocated_bytes
    allocator.peak_active_bytes = allocator.active_bytes
    allocator.peak_requested_bytes = allocator.requested_bytes
    allocator.reserved_at_peak_bytes = allocator.reserved_bytes
    return active


def chain(head: Block) -> Iterator[Block]:
    """A segment's blocks from the first one on."""
    block: Block | None = head
    while block is not None:
        yield block
        block = block.next


def _record(blocks: list[Block], device: int, frames: Mapping[int, tuple[Frame, ...]]) -> SegmentRecord:
    pool = blocks[0].pool
    stream, pool_id = pool.stream if isinstance(pool.stream, tuple) else (pool.stream, DEFAULT_POOL)
    return SegmentRecord(
        device=device,
        address=blocks[0].address,
        size_bytes=sum(block.size for block in blocks),
        stream=stream,
        is_small=pool.is_small,
        is_expandable=blocks[0].expandable is not None,
        pool_id=pool_id,
        blocks=tuple(
            BlockRecord(
                address=block.address,
                size_bytes=block.size,
                requested_bytes=block.requested_bytes,
                state=block.state,
                frames=frames.get(block.address, ()) if block.state != FREE else (),
            )
            for block in blocks
        ),
    )


def _blocks(record: SegmentRecord, pool: Pool, expandable: ExpandableSegment | None) -> list[Block]:
    blocks = []
    for item in record.blocks:
        block = Block(item.address, item.size_bytes, pool, None, None, expandable)
        block.requested_bytes = item.requested_bytes
        block.state = item.state
        blocks.append(block)
    return blocks


def _link(blocks: list[Block]) -> None:
    for low, high in pairwise(blocks):
        low.next, high.prev = high, low


def _take_in(allocator: CachingAllocator, blocks: list[Block], active: dict[int, Block]) -> None:
    """Counts blocks and makes the free ones findable."""
    for block in blocks:
        if block.state == UNMAPPED:
            block.pool.add_unmapped(block)
            continue
        allocator.count_reserved(block.size)
        if block.state == FREE:
            block.pool.add(block)
            continue
        active[block.address] = block
        allocator.active_bytes += block.size
        allocator.requested_bytes += block.requested_bytes
        if block.state == ALLOCATED:
            allocator.allocated_bytes += block.size
        else:
            assert block.state == PENDING


def _expandable(allocator: CachingAllocator, base: int, pool: Pool, records: list[SegmentRecord]) -> list[Block]:
    """All blocks of an expandable segment, the unmapped ones between the recorded ranges too."""
    page = allocator.page_bytes(pool)
    size = max(round_up(allocator.device.address_space_bytes(), page), records[-1].end - base)
    segment = ExpandableSegment(base, size, pool, page)
    blocks: list[Block] = []
    at = base
    for record in records:
        if record.address > at:
            blocks.append(_unmapped(at, record.address, pool, segment))
        blocks.extend(_blocks(record, pool, segment))
        at = record.end
    if at < base + size:
        blocks.append(_unmapped(at, base + size, pool, segment))
    segment.head = blocks[0]
    allocator.expandable_segments.append(segment)
    return blocks


def _unmapped(start: int, end: int, pool: Pool, segment: ExpandableSegment) -> Block:
    block = Block(start, end - start, pool, None, None, segment)
    block.state = UNMAPPED
    return block
