"""The large pool of one stream under the default settings, and nothing else: the same answers, sooner.

`CachingAllocator` also knows expandable segments, several streams, limits and snapshots. The replay of a run needs none
of that and makes thousands of requests, so here one loop does everything, over blocks that are plain lists.
`tests/unit/allocator/test_plain.py` holds the two to the same bytes after every operation.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from typing import Any

from vramplan.allocator.sizes import MIN_BLOCK_BYTES, SMALL_BYTES, segment_bytes

Block = list[Any]
"""[address, length, the free block ahead of it or None, the block behind it or None, the free blocks that it is among
or, while it is in use, None].

Ahead and behind are within its segment. A list, because Python makes lists, and compares them by their first item,
without running any code of ours."""
Slots = list["Block | None"]
"""What is in use, by the number that its user gave it."""
Step = tuple[int, int]
"""(length, slot) takes; (0, slot) gives back; (-1 - n, slot) gives back a slot of the n-th of other slots, counted
from the last one, as a negative index does."""
Part = tuple[Iterable[Step], Slots, Sequence[Slots]]
"""What to do, what it uses, and what else it may give back, the last first."""


class PlainAllocator:
    """One device without end, one stream, requests of more than `SMALL_BYTES`.

    Lengths and addresses count blocks of `MIN_BLOCK_BYTES`: Python is quicker with ints below 2 ** 30.
    """

    __slots__ = (
        "_allocated",
        "_free",
        "_lowest_address",
        "_peak_allocated",
        "_peak_reserved",
        "_reserved",
        "_segments",
        "_sizes",
    )

    def __init__(self) -> None:
        # The free blocks of each length, lowest address first, and those lengths in order. One whose blocks are all in
        # use stays until a search comes past it: most are free again soon.
        self._free: dict[int, list[Block]] = {}
        self._sizes: list[int] = []
        self._segments: dict[int, int] = {}
        self._lowest_address = 0
        self._allocated = self._peak_allocated = 0
        self._reserved = self._peak_reserved = 0

    @property
    def allocated_bytes(self) -> int:
        """In use."""
        return self._allocated * MIN_BLOCK_BYTES

    @property
    def reserved_bytes(self) -> int:
        """In segments."""
        return self._reserved * MIN_BLOCK_BYTES

    @property
    def peak_allocated_bytes(self) -> int:
        """The most that was in use since peaks were reset."""
        return self._peak_allocated * MIN_BLOCK_BYTES

    @property
    def peak_reserved_bytes(self) -> int:
        """The most that was in segments since peaks were reset."""
        return self._peak_reserved * MIN_BLOCK_BYTES

    def reset_peaks(self) -> None:
        """Count peaks anew, as torch.cuda.reset_peak_memory_stats does."""
        self._peak_allocated, self._peak_reserved = self._allocated, self._reserved

    def copy(self, held: Iterable[Block] = ()) -> tuple[PlainAllocator, list[Block]]:
        """Another one in the same state.

        Args:
            held: blocks in use that may be given back to the copy; no others of this allocator's may be.

        Returns:
            It, and its own blocks in place of those held.
        """
        other = PlainAllocator()
        held = list(held)
        groups = self._free.values()
        own = {id(block): block.copy() for block in itertools.chain(held, *groups)}
        for block in own.values():
            # What is not copied is not given back either, and so never asks what lies beside it.
            block[2], block[3] = None, own.get(id(block[3]))
        for size, group in self._free.items():
            other._free[size] = free = [own[id(block)] for block in group]
            for block in free:
                block[4] = free
                if block[3] is not None:
                    block[3][2] = block
        other._sizes, other._segments = self._sizes.copy(), self._segments.copy()
        other._lowest_address = self._lowest_address
        other._allocated, other._peak_allocated = self._allocated, self._peak_allocated
        other._reserved, other._peak_reserved = self._reserved, self._peak_reserved
        return other, [own[id(block)] for block in held]

    def run(self, parts: Iterable[Part]) -> None:
        """Takes and gives back in order, in one loop almost without calls: it is where a replay's time goes.

        Args:
            parts: what to do, with more than `SMALL_BYTES` each; slots are changed in place, and giving back an empty
                one does nothing. A part may be made when the one before it is done: what is reserved is then known.
        """
        sizes, free, get = self._sizes, self._free, self._free.get
        find, put, small = bisect_left, insort, SMALL_BYTES // MIN_BLOCK_BYTES
        allocated, peak = self._allocated, self._peak_allocated
        for steps, slots, others in parts:
            for size, slot in steps:
                if size > 0:
                    group = get(size)
                    if group:
                        block = group.pop(0)
                        behind = block[3]
                        if behind is not None:
                            behind[2] = None
                    else:
                        index = find(sizes, size)
                        try:
                            while not (group := free[sizes[index]]):
                                del free[sizes[index]], sizes[index]
                            block = group.pop(0)
                        except IndexError:
                            block = self._segment(size)
                        have, behind = block[1], block[3]
                        rest = have - size
                        if rest > small:
                            block[1] = size
                            part = block[3] = [block[0] + size, rest, None, behind, None]
                            group = get(rest)
                            if group is None:
                                free[rest] = part[4] = [part]
                                put(sizes, rest)
                            else:
                                part[4] = group
                                put(group, part)
                        else:
                            size, part = have, None  # the block keeps the rest
                        if behind is not None:
                            behind[2] = part
                    block[4] = None
                    slots[slot] = block
                    allocated += size
                    if allocated > peak:
                        peak = allocated
                    continue
                holder = others[size] if size else slots
                taken = holder[slot]
                if taken is None:
                    continue
                holder[slot] = None
                block = taken
                _, size, ahead, behind, _ = block
                allocated -= size
                if behind is not None:
                    group = behind[4]
                    if group is not None:
                        del group[find(group, behind)]
                        size += behind[1]
                        block[1] = size
                        behind = block[3] = behind[3]
                        if behind is not None:
                            behind[2] = block
                    else:
                        behind[2] = block
                if ahead is not None:
                    group = ahead[4]
                    del group[find(group, ahead)]
                    size += ahead[1]
                    ahead[3] = behind
                    block = ahead
                    block[1] = size
                    if behind is not None:
                        behind[2] = block
                group = get(size)
                if group is None:
                    free[size] = block[4] = [block]
                    put(sizes, size)
                else:
                    block[4] = group
                    put(group, block)
        self._allocated, self._peak_allocated = allocated, peak

    def empty_cache(self) -> None:
        """Gives every segment that is free as a whole back to the device."""
        for size, group in self._free.items():
            for block in [block for block in group if self._segments.get(block[0]) == size]:
                group.remove(block)
                del self._segments[block[0]]
                self._reserved -= size

    def close(self) -> None:
        """Ends its use, but for copies: no block points back at another any more, so that all go without a search."""
        for block in itertools.chain(*self._free.values()):
            block[4] = None
            if block[3] is not None:
                block[3][2] = None

    def _segment(self, size: int) -> Block:
        """The block of a new segment for `size`, not yet in use."""
        have = segment_bytes(size * MIN_BLOCK_BYTES) // MIN_BLOCK_BYTES
        # cudaMalloc on Linux hands out falling addresses (vramplan/allocator/device.py).
        self._lowest_address -= have
        self._segments[self._lowest_address] = have
        self._reserved += have
        if self._reserved > self._peak_reserved:
            self._peak_reserved = self._reserved
        return [self._lowest_address, have, None, None, None]
