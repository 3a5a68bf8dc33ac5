"""Which memory pool an event of a trace belongs to."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from vramplan.allocator.blocks import DEFAULT_POOL, PoolId, Stream
from vramplan.allocator.snapshot import SegmentRecord, TraceEvent


class Owners:
    """Looks pools up by address: versions of torch before 2.12 record them for segments only.

    Args:
        segments: those of the snapshot. An event outside all of them counts as of the default pool.
    """

    def __init__(self, segments: Iterable[SegmentRecord]) -> None:
        """Keeps the segments that are not of the default pool."""
        self._private = sorted(
            (segment.address, segment.end, segment.pool_id) for segment in segments if segment.pool_id != DEFAULT_POOL
        )

    def pool_of(self, address: int) -> PoolId:
        """The pool whose segment holds an address."""
        index = bisect_right(self._private, (address + 1,)) - 1
        if index >= 0:
            _, end, pool_id = self._private[index]
            if address < end:
                return pool_id
        return DEFAULT_POOL

    def owner_of(self, event: TraceEvent) -> Stream:
        """The stream and pool of an allocation."""
        pool_id = event.pool_id or self.pool_of(event.address)
        return event.stream if pool_id == DEFAULT_POOL else (event.stream, pool_id)
