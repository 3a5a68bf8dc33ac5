"""The large pool of one stream under the default settings, as nothing but free intervals: the same answers, sooner.

`CachingAllocator` keeps a chain of blocks, because expandable segments, several streams and snapshots need one. The
replay of a run needs none of that and makes thousands of requests, so here the free intervals are two sorted lists and
what is in use is known to whoever holds it. `tests/unit/allocator/test_plain.py` holds the two to the same bytes after
every operation.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence

from vramplan.allocator.device import TOP_ADDRESS
from vramplan.allocator.sizes import MIN_BLOCK_BYTES, SMALL_BYTES, round_up, segment_bytes
from vramplan.errors import UsageError

Taken = tuple[int, int]
"""(address, bytes) in use."""
Step = tuple[int, int]
"""(block bytes, slot) takes; (0, slot) gives back; (-1 - group, n) gives back the n-th slot before the end of another
group of slots."""


class PlainAllocator:
    """One device without end, one stream, requests of more than `SMALL_BYTES`.

    Attributes:
        allocated_bytes: in use.
        reserved_bytes: in segments.
        peak_allocated_bytes: the most that `allocated_bytes` has been; likewise `peak_reserved_bytes`.
    """

    __slots__ = (
        "_ends",
        "_free",
        "_lowest_address",
        "_segments",
        "_sizes",
        "_starts",
        "allocated_bytes",
        "peak_allocated_bytes",
        "peak_reserved_bytes",
        "reserved_bytes",
    )

    def __init__(self) -> None:
        # The sizes of the free intervals, their addresses by size, and each one's size by where it starts and ends.
        self._sizes: list[int] = []
        self._free: dict[int, list[int]] = {}
        self._starts: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._segments: dict[int, int] = {}
        self._lowest_address = TOP_ADDRESS
        self.allocated_bytes = self.peak_allocated_bytes = 0
        self.reserved_bytes = self.peak_reserved_bytes = 0

    def copy(self) -> PlainAllocator:
        """Another one in the same state."""
        other = PlainAllocator()
        other._sizes, other._free = self._sizes.copy(), {size: group.copy() for size, group in self._free.items()}
        other._starts, other._ends = self._starts.copy(), self._ends.copy()
        other._segments, other._lowest_address = self._segments.copy(), self._lowest_address
        other.allocated_bytes, other.peak_allocated_bytes = self.allocated_bytes, self.peak_allocated_bytes
        other.reserved_bytes, other.peak_reserved_bytes = self.reserved_bytes, self.peak_reserved_bytes
        return other

    def malloc(self, num_bytes: int) -> Taken:
        """Asks for `num_bytes`.

        Raises:
            UsageError: the request is the small pool's.
        """
        if num_bytes <= SMALL_BYTES:
            raise UsageError(f"{num_bytes} bytes are the small pool's", hint="CachingAllocator has both pools")
        slots: list[Taken | None] = [None]
        self.run(((round_up(num_bytes, MIN_BLOCK_BYTES), 0),), slots)
        (taken,) = slots
        assert taken is not None
        return taken

    def free(self, taken: Taken) -> None:
        """Gives back what `malloc` returned."""
        self.run(((0, 0),), [taken])

    def run(self, steps: Iterable[Step], slots: list[Taken | None], base: int = 0, ends: Sequence[int] = ()) -> None:
        """Takes and gives back in order, in one loop without calls: it is where a replay's time goes.

        Args:
            steps: what to do; block bytes are multiples of 512 above `SMALL_BYTES`.
            slots: what is in use, changed in place; giving back an empty slot does nothing.
            base: where this group's slots begin.
            ends: where the slots of each other group end, the last group first.
        """
        sizes, free, starts, stops = self._sizes, self._free, self._starts, self._ends
        allocated, peak = self.allocated_bytes, self.peak_allocated_bytes
        find, put, get = bisect_left, insort, free.get
        for size, place in steps:
            if size > 0:
                index = find(sizes, size)
                if index < len(sizes):
                    have = sizes[index]
                    group = free[have]
                    address = group.pop(0)
                    if not group:
                        del sizes[index], free[have]
                    del starts[address], stops[address + have]
                else:
                    have, address = self._grow(size)
                rest = have - size
                if rest > SMALL_BYTES:  # else the block keeps it
                    after = address + size
                    starts[after] = stops[address + have] = rest
                    same = get(rest)
                    if same is None:
                        free[rest] = [after]
                        put(sizes, rest)
                    else:
                        put(same, after)
                else:
                    size = have
                slots[base + place] = address, size
                allocated += size
                if allocated > peak:
                    peak = allocated
                continue
            slot = ends[size] - place if size else base + place
            taken = slots[slot]
            if taken is None:
                continue
            slots[slot] = None
            address, size = taken
            allocated -= size
            end = address + size
            if end in starts:
                joined = starts.pop(end)
                group = free[joined]
                if len(group) == 1:
                    del free[joined], sizes[find(sizes, joined)]
                else:
                    group.remove(end)
                size += joined
                end += joined
            if address in stops:
                joined = stops.pop(address)
                address -= joined
                group = free[joined]
                if len(group) == 1:
                    del free[joined], sizes[find(sizes, joined)]
                else:
                    group.remove(address)
                size += joined
            starts[address] = stops[end] = size
            same = get(size)
            if same is None:
                free[size] = [address]
                put(sizes, size)
            else:
                put(same, address)
        self.allocated_bytes, self.peak_allocated_bytes = allocated, peak

    def empty_cache(self) -> None:
        """Gives every segment that is free as a whole back to the device."""
        for address, size in list(self._segments.items()):
            if self._starts.get(address) == size:
                group = self._free[size]
                group.remove(address)
                if not group:
                    self._sizes.remove(size)
                    del self._free[size]
                del self._starts[address], self._ends[address + size], self._segments[address]
                self.reserved_bytes -= size

    def _grow(self, size: int) -> tuple[int, int]:
        """A new segment's bytes and address."""
        have = segment_bytes(size)
        # A gap, so that the neighbours of two segments are never taken for one interval.
        address = self._lowest_address = self._lowest_address - have - MIN_BLOCK_BYTES
        self._segments[address] = have
        self.reserved_bytes += have
        if self.reserved_bytes > self.peak_reserved_bytes:
            self.peak_reserved_bytes = self.reserved_bytes
        return have, address
