"""Address ranges of segments, added and taken away while a trace is undone."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from vramplan.allocator.blocks import PoolId


@dataclass(frozen=True, slots=True)
class Range:
    """A segment, or a contiguous mapped range of an expandable one, of one stream and memory pool."""

    start: int
    end: int
    stream: int
    pool_id: PoolId
    is_small: bool
    is_expandable: bool

    def continues(self, other: Range) -> bool:
        """Whether both are part of one expandable segment and `self` begins where `other` ends."""
        return self.is_expandable and replace(other, start=self.start, end=self.end) == self and other.end == self.start


class RangeSet:
    """Ranges that do not overlap, by address; neighbours in one expandable segment are one."""

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        """Takes the ranges in any order."""
        self._starts: list[int] = []
        self._ranges: list[Range] = []
        for part in ranges:
            self.add(part)

    def __iter__(self) -> Iterator[Range]:
        """The ranges, by address."""
        return iter(self._ranges)

    def add(self, part: Range) -> bool:
        """Adds a range and joins it with its neighbours where they are one segment; False where one is in the way."""
        index = bisect_left(self._starts, part.start)
        if index < len(self._ranges) and self._ranges[index].start < part.end:
            return False
        if index > 0 and self._ranges[index - 1].end > part.start:
            return False
        if index < len(self._ranges) and self._ranges[index].continues(part):
            part = replace(part, end=self._pop(index).end)
        if index > 0 and part.continues(self._ranges[index - 1]):
            index -= 1
            part = replace(part, start=self._pop(index).start)
        self._starts.insert(index, part.start)
        self._ranges.insert(index, part)
        return True

    def remove(self, start: int, end: int) -> bool:
        """Takes a whole segment away, or part of an expandable one; False where there is none of that extent."""
        index = bisect_right(self._starts, start) - 1
        if index < 0:
            return False
        part = self._ranges[index]
        if end > part.end or not (part.is_expandable or (start, end) == (part.start, part.end)):
            return False
        self._pop(index)
        for low, high in ((end, part.end), (part.start, start)):
            if low < high:
                self._starts.insert(index, low)
                self._ranges.insert(index, replace(part, start=low, end=high))
        return True

    def _pop(self, index: int) -> Range:
        del self._starts[index]
        return self._ranges.pop(index)
