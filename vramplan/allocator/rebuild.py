"""The state in which a trace began, from the state it ended in: the events undone from the last to the first.

A state is fully known from its segments and the blocks in use, because free neighbours are always joined. The one
thing a trace does not say is how large a block was, when the pool had given it more than it asked for; see `_Sizes`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vramplan.allocator.blocks import ALLOCATED, FREE, PENDING
from vramplan.allocator.config import NO_DIVISIONS, AllocatorConfig
from vramplan.allocator.layout import Layout
from vramplan.allocator.owners import Owners
from vramplan.allocator.ranges import Range, RangeSet
from vramplan.allocator.sizes import SMALL_BYTES, SMALL_SEGMENT_BYTES, block_bytes
from vramplan.allocator.snapshot import (
    ALLOC,
    FREE_COMPLETED,
    FREE_REQUESTED,
    SEGMENT_ALLOC,
    SEGMENT_FREE,
    SEGMENT_MAP,
    SEGMENT_UNMAP,
    BlockRecord,
    SegmentRecord,
    TraceEvent,
)
from vramplan.errors import CannotTellError


class InconsistentTraceError(CannotTellError):
    """The events do not lead to the recorded segments: some are missing."""


@dataclass(slots=True)
class _Live:
    """A block in use; `size_bytes` is None where only the request is known."""

    requested_bytes: int
    size_bytes: int | None
    state: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The state before the first event.

    Attributes:
        segments: none where the trace covers everything.
        unsure: addresses of blocks that may be larger than they are here, by up to 1 MiB.
    """

    segments: tuple[SegmentRecord, ...]
    unsure: frozenset[int]


def starting_state(
    events: Sequence[TraceEvent],
    final: Iterable[SegmentRecord],
    config: AllocatorConfig,
    layout: Layout,
    extra_bytes: Mapping[int, int],
) -> Start:
    """The state before the first event.

    Args:
        events: of one device, the oldest first.
        final: the segments of that device after the last event.
        config: the settings they were made under.
        layout: of the expandable segments.
        extra_bytes: for blocks that the result calls unsure: how much larger they are.

    Raises:
        InconsistentTraceError: the events do not lead to `final`.
    """
    final = tuple(final)
    live = {
        block.address: _Live(block.requested_bytes, block.size_bytes, block.state)
        for segment in final
        for block in segment.blocks
        if block.state != FREE
    }
    memory = RangeSet(
        Range(segment.address, segment.end, segment.stream, segment.pool_id, segment.is_small, segment.is_expandable)
        for segment in final
    )
    owners = Owners(final)
    for event in reversed(events):
        _undo(event, live, memory, owners, layout)
    sizes = _Sizes(events, live, config, extra_bytes)
    segments = tuple(_record(part, live, sizes, device=final[0].device if final else 0) for part in memory)
    if sum(block.state != FREE for segment in segments for block in segment.blocks) != len(live):
        raise InconsistentTraceError("a block lies outside every segment")
    return Start(segments=segments, unsure=frozenset(sizes.unsure))


def _undo(event: TraceEvent, live: dict[int, _Live], memory: RangeSet, owners: Owners, layout: Layout) -> None:
    address, size = event.address, event.size_bytes
    if event.action == ALLOC:
        block = live.pop(address, None)
        if block is None or block.requested_bytes != size:
            raise InconsistentTraceError(f"the block of {size} bytes allocated at {address:#x} is not there later")
    elif event.action == FREE_COMPLETED:
        if address in live:
            raise InconsistentTraceError(f"the block freed at {address:#x} is still in use later")
        live[address] = _Live(size, None, PENDING)
    elif event.action == FREE_REQUESTED:
        block = live.get(address)
        if block is None or block.state != PENDING:
            raise InconsistentTraceError(f"the block at {address:#x} was given up but not freed")
        block.state = ALLOCATED
    elif event.action in (SEGMENT_ALLOC, SEGMENT_MAP):
        if not memory.remove(address, address + size):
            raise InconsistentTraceError(f"the segment at {address:#x} is not there later")
    elif event.action in (SEGMENT_FREE, SEGMENT_UNMAP):
        pool_id = event.pool_id or owners.pool_of(address)
        is_expandable = event.action == SEGMENT_UNMAP
        is_small = layout.is_small(address) if is_expandable else size == SMALL_SEGMENT_BYTES
        if not memory.add(Range(address, address + size, event.stream, pool_id, is_small, is_expandable)):
            raise InconsistentTraceError(f"the segment given back at {address:#x} overlaps another one")


def _record(part: Range, live: dict[int, _Live], sizes: _Sizes, *, device: int) -> SegmentRecord:
    """A segment with its blocks."""
    addresses = sizes.addresses
    inside = addresses[bisect_left(addresses, part.start) : bisect_left(addresses, part.end)]
    blocks: list[BlockRecord] = []
    at = part.start
    for address, limit in zip(inside, [*inside[1:], part.end], strict=False):
        if address > at:
            blocks.append(_free(at, address))
        block = live[address]
        size = sizes.of(address, block, part, limit)
        if address + size > limit:
            raise InconsistentTraceError(f"the block at {address:#x} overlaps the next one")
        blocks.append(
            BlockRecord(address=address, size_bytes=size, requested_bytes=block.requested_bytes, state=block.state)
        )
        at = address + size
    if at < part.end:
        blocks.append(_free(at, part.end))
    return SegmentRecord(
        device=device,
        address=part.start,
        size_bytes=part.end - part.start,
        stream=part.stream,
        is_small=part.is_small,
        is_expandable=part.is_expandable,
        pool_id=part.pool_id,
        blocks=tuple(blocks),
    )


def _free(start: int, end: int) -> BlockRecord:
    return BlockRecord(address=start, size_bytes=end - start, requested_bytes=0, state=FREE)


class _Sizes:
    """Sizes of the blocks that were in use at the start, of some of which only the request is recorded.

    Small and expandable blocks are split to the last 512 bytes. A large block keeps a remainder of up to 1 MiB, and
    no free large block is smaller than that: so a gap of up to 1 MiB behind a block is its own. Where the gap is
    larger, the first block that was put into it, while this one was in use, shows where it begins. Where none was,
    the size is unsure: it decides nothing but which of two free blocks fits better.
    """

    def __init__(
        self,
        events: Sequence[TraceEvent],
        live: Mapping[int, _Live],
        config: AllocatorConfig,
        extra_bytes: Mapping[int, int],
    ) -> None:
        self.addresses = sorted(live)
        self.unsure: set[int] = set()
        self._extra_bytes = extra_bytes
        self._config = config
        self._ends = {
            address: address + self._rounded(block.requested_bytes)
            for address, block in live.items()
            if block.size_bytes is None
        }
        self._followers = self._find_followers(events)

    def of(self, address: int, block: _Live, part: Range, limit: int) -> int:
        """The size of a block in a segment, with nothing else in use below `limit`."""
        if block.size_bytes is not None:
            return block.size_bytes
        size = self._ends[address] - address
        gap = limit - address - size
        if part.is_small or part.is_expandable or gap <= 0:
            return size
        never_split = self._config.max_split_size_bytes
        if never_split is not None and size >= never_split:
            return limit - address
        if gap <= SMALL_BYTES:
            return size + gap
        follower = self._followers.get(address)
        if follower is not None:
            return follower - address
        self.unsure.add(address)
        return size + self._extra_bytes.get(address, 0)

    def _rounded(self, num_bytes: int) -> int:
        divisions = self._config.roundup_power2_divisions
        return block_bytes(num_bytes, None if divisions == NO_DIVISIONS else divisions)

    def _find_followers(self, events: Sequence[TraceEvent]) -> dict[int, int]:
        """For each block of unknown size: where the first block within 1 MiB behind it was put during its life."""
        owners = {end: address for address, end in self._ends.items()}
        open_ends = sorted(owners)
        found: dict[int, int] = {}
        for event in events:
            if not open_ends:
                break
            if event.action == ALLOC:
                index = bisect_right(open_ends, event.address) - 1
                if index >= 0 and event.address - open_ends[index] <= SMALL_BYTES:
                    found[owners[open_ends.pop(index)]] = event.address
            elif event.action == FREE_COMPLETED and event.address in self._ends:
                index = bisect_left(open_ends, self._ends[event.address])
                if index < len(open_ends) and open_ends[index] == self._ends[event.address]:
                    del open_ends[index]
        return found
