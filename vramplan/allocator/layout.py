"""Where a recording had its expandable segments: their first addresses and how many addresses each has.

Neither is recorded. But every range that was mapped belongs to one of them, ranges of different pools are in
different ones, and the driver reserves them one behind the other: in a snapshot of three A100s all bases are 2849 or
2850 times 32 MiB apart, which is 9/8 of the card rounded up. So a distance between two bases bounds the size, and
where it is too large nothing is lost against not knowing it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from operator import attrgetter

from vramplan.allocator.blocks import Stream
from vramplan.allocator.config import AllocatorConfig
from vramplan.allocator.owners import Owners
from vramplan.allocator.sizes import SMALL_BYTES
from vramplan.allocator.snapshot import (
    ALLOC,
    FREE_COMPLETED,
    OOM,
    SEGMENT_MAP,
    SEGMENT_UNMAP,
    Snapshot,
    TraceEvent,
)

_Pool = tuple[int, Stream, bool]
"""A device, a stream or memory pool, and whether blocks are small."""


class Layout:
    """The expandable segments of a snapshot, of all devices.

    Attributes:
        address_space_bytes: the addresses of each; None where the snapshot has fewer than two.
    """

    __slots__ = ("_bases", "_small", "address_space_bytes")

    def __init__(self, snapshot: Snapshot) -> None:
        """Looks through all segments and events."""
        found = sorted(_mapped(snapshot), key=lambda item: item[0])
        # Ranges of one pool with none of another pool between them are in one segment, if all that was ever mapped
        # reaches from one to the next,
        longest = _ever_mapped_bytes(snapshot)
        runs = [part for _, group in groupby(found, key=lambda item: item[1]) for part in _near(list(group), longest)]
        self.address_space_bytes = min((high[0][0] - low[0][0] for low, high in pairwise(runs)), default=None)
        self._bases: list[int] = []
        self._small: list[bool] = []
        for run in runs:
            base = None
            for start, pool in run:
                # unless they are too far apart for that.
                if base is None or (self.address_space_bytes is not None and start - base >= self.address_space_bytes):
                    base = start
                    self._bases.append(base)
                    self._small.append(pool[2])

    def base_of(self, address: int) -> int:
        """The first address of the expandable segment that an address is in."""
        index = bisect_right(self._bases, address) - 1
        return self._bases[index] if index >= 0 else address

    def is_small(self, address: int) -> bool:
        """Whether the expandable segment that an address is in holds small blocks."""
        index = max(bisect_right(self._bases, address) - 1, 0)
        return bool(self._small) and self._small[index]


def _near(ranges: list[tuple[int, _Pool]], longest: int) -> list[list[tuple[int, _Pool]]]:
    parts = [ranges[:1]]
    for before, item in pairwise(ranges):
        if item[0] - before[0] > longest:
            parts.append([])
        parts[-1].append(item)
    return parts


def _ever_mapped_bytes(snapshot: Snapshot) -> int:
    """No range is further from its segment's start: a segment is mapped from there on, without leaving room."""
    total = sum(segment.size_bytes for segment in snapshot.segments if segment.is_expandable)
    return total + sum(
        event.size_bytes
        for device in snapshot.devices
        for event in snapshot.trace_of(device)
        if event.action in (SEGMENT_MAP, SEGMENT_UNMAP)
    )


def _mapped(snapshot: Snapshot) -> list[tuple[int, _Pool]]:
    """The start of every range that was mapped at some time, with the pool it was for."""
    found: list[tuple[int, _Pool]] = [
        (segment.address, (segment.device, segment.owner, segment.is_small))
        for segment in snapshot.segments
        if segment.is_expandable
    ]
    for device in snapshot.devices:
        events = snapshot.trace_of(device)
        owners = Owners(snapshot.segments_of(device))
        shown = [
            (event.address, (device, owners.owner_of(request), request.size_bytes <= SMALL_BYTES))
            for event, request in (*_mapped_for(events), *_unmapped_after(events))
        ]
        found += shown
        found += _unshown(events, device, {address for address, _ in shown}, found, snapshot.config)
    return found


def _mapped_for(events: Sequence[TraceEvent]) -> Iterator[tuple[TraceEvent, TraceEvent]]:
    """Each mapped range with the request it was mapped for: the next one."""
    mapped: list[TraceEvent] = []
    for event in events:
        if event.action == SEGMENT_MAP:
            mapped.append(event)
        elif event.action in (ALLOC, OOM):
            for part in mapped:
                yield part, event._replace(address=part.address)
            mapped.clear()


def _unmapped_after(events: Sequence[TraceEvent]) -> Iterator[tuple[TraceEvent, TraceEvent]]:
    """Each unmapped range in which a block began at some time, with that block."""
    blocks = sorted((event for event in events if event.action in (ALLOC, FREE_COMPLETED)), key=_address)
    for event in events:
        if event.action == SEGMENT_UNMAP:
            index = bisect_left(blocks, event.address, key=_address)
            if index < len(blocks) and blocks[index].address < event.address + event.size_bytes:
                yield event, blocks[index]


def _unshown(
    events: Sequence[TraceEvent],
    device: int,
    shown: set[int],
    found: list[tuple[int, _Pool]],
    config: AllocatorConfig | None,
) -> list[tuple[int, _Pool]]:
    """The unmapped ranges that no block shows the pool of: as the nearest range of the stream.

    Not a whole number of large pages is of small blocks; any other is of large ones, unless it touches a small range.
    Memory pools of their own are left out: theirs are not unmapped while they live.
    """
    page = (config or AllocatorConfig()).large_segment_size_bytes
    result: list[tuple[int, _Pool]] = []
    for event in events:
        if event.action != SEGMENT_UNMAP or event.address in shown:
            continue
        address, end = event.address, event.address + event.size_bytes
        ranges = [item for item in found if item[1][:2] == (device, event.stream)]
        is_small = event.size_bytes % page != 0 or any(start == end and pool[2] for start, pool in ranges)
        ranges = [item for item in ranges if item[1][2] == is_small]
        nearest = min(ranges, key=lambda item: abs(item[0] - address), default=None)
        result.append((address, nearest[1] if nearest else (device, event.stream, is_small)))
    return result


_address = attrgetter("address")
