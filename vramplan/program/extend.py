"""From a trace of four units of layers, the trace of many: checked to repeat, never assumed to.

A unit is one decoder layer, or one period of a pattern of layers. Unit 0 is the first, 3 the last, and 1 and 2 are
alike if the model repeats itself: they must do the same to the allocator, each to its own tensors and its neighbours'.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

NUM_TRACED_UNITS = 4
_FIRST, _LEFT, _RIGHT, _LAST = range(NUM_TRACED_UNITS)
_SHORTEST_RUN = 4  # fewer events in a row may be chance: a cache's tensors die in the order of their addresses
_Key = tuple[int, int]  # (unit, ordinal of the allocation within its unit)


class NotRepeating(Exception):  # noqa: N818  # not an error: the caller traces every layer instead
    """The two middle units do not do the same."""


@dataclass(frozen=True, slots=True)
class _Event:
    index: int
    unit: int
    size: int  # of an allocation; 0 for a free
    key: _Key


@dataclass(frozen=True, slots=True, kw_only=True)
class Extended:
    """A longer trace.

    Args:
        events: as in FakeTrace.
        index_of: where each event of the short trace that was kept begins in `events`, for marks.
        origin: per new serial the serial of the short trace that it is a copy of.
        source: per new event the event of the short trace that it is a copy of.
    """

    events: list[int]
    source: list[int]
    index_of: list[int]
    origin: list[int]


def extend(events: Sequence[int], units: Sequence[int], *, num_units: int) -> Extended:
    """Repeats the middle units.

    Args:
        events: of a run with four units.
        units: per event the unit that was running, -1 for none.
        num_units: how many units the long trace has, at least four.

    Raises:
        NotRepeating: the middle units differ.
    """
    parsed, serials = _parse(events, units)
    return _Extension(parsed, serials, num_units).run()


def _parse(events: Sequence[int], units: Sequence[int]) -> tuple[list[_Event], dict[_Key, int]]:
    counts: dict[int, int] = {}
    keys: list[_Key] = []
    parsed: list[_Event] = []
    serials: dict[_Key, int] = {}
    for event, unit in zip(events, units, strict=True):
        if event > 0:
            key = (unit, counts.get(unit, 0))
            counts[unit] = key[1] + 1
            serials[key] = len(keys)
            keys.append(key)
            parsed.append(_Event(len(parsed), unit, event, key))
        else:
            parsed.append(_Event(len(parsed), unit, 0, keys[-event - 1]))
    if counts.get(_LEFT) != counts.get(_RIGHT):
        raise NotRepeating
    return parsed, serials


class _Extension:
    def __init__(self, parsed: list[_Event], serials: dict[_Key, int], num_units: int) -> None:
        self._parsed = parsed
        self._old_serials = serials
        self._num_units = num_units
        self._new_serials: dict[_Key, int] = {}
        self._events: list[int] = []
        self._source: list[int] = []
        self._index_of = [0] * len(parsed)
        self._origin: list[int] = []

    def run(self) -> Extended:
        """The whole extension."""
        position = 0
        while position < len(self._parsed):
            group = self._group_at(position)
            position = self._repeat_singly(position) if group is None else self._repeat_runs(group)
        return Extended(events=self._events, source=self._source, index_of=self._index_of, origin=self._origin)

    def _run_end(self, start: int) -> int:
        end = start
        while end < len(self._parsed) and self._parsed[end].unit == self._parsed[start].unit:
            end += 1
        return end

    def _group_at(self, start: int) -> list[int] | None:
        """Borders of the runs of units 0, 1, 2, 3 (or 3, 2, 1, 0) that begin here, or None."""
        borders = [start]
        wanted: range | None = None
        for number in range(NUM_TRACED_UNITS):
            if borders[-1] >= len(self._parsed):
                return None
            unit = self._parsed[borders[-1]].unit
            if number == 0:
                if unit not in (_FIRST, _LAST):
                    return None
                wanted = range(NUM_TRACED_UNITS) if unit == _FIRST else range(_LAST, -1, -1)
            if wanted is None or unit != wanted[number]:
                return None
            borders.append(self._run_end(borders[-1]))
        if borders[2] - borders[1] < _SHORTEST_RUN:
            return None
        try:
            for _ in self._pairs_of(borders):
                pass
        except NotRepeating:  # a chance order, as in which a cache's tensors die
            return None
        return borders

    def _pairs_of(self, borders: list[int]) -> Iterator[tuple[_Event, _Event]]:
        """Events of unit 1 beside those of unit 2, of a group with these borders."""
        first, second = slice(borders[1], borders[2]), slice(borders[2], borders[3])
        upward = self._parsed[borders[0]].unit == _FIRST
        left, right = (first, second) if upward else (second, first)
        return self._paired(self._parsed[left], self._parsed[right])

    def _repeat_runs(self, borders: list[int]) -> int:
        upward = self._parsed[borders[0]].unit == _FIRST
        self._copy(borders[0], borders[1])
        pairs = list(self._pairs_of(borders))
        middle = range(1, self._num_units - 1)
        for index in range(borders[1], borders[3]):
            self._index_of[index] = len(self._events)
        for unit in middle if upward else reversed(middle):
            for pair in pairs:
                self._emit_middle(pair, unit)
        self._copy(borders[3], borders[4])
        return borders[4]

    def _repeat_singly(self, start: int) -> int:
        """Events outside a group, up to the next group: each of the left unit is repeated where it stands."""
        end = start
        while end < len(self._parsed) and (end == start or self._group_at(end) is None):
            end = self._run_end(end)
        stretch = self._parsed[start:end]
        partners = {
            (event.size, event.key[0] - _RIGHT if event.key[0] >= 0 else None, event.key[1]): event
            for event in stretch
            if event.unit == _RIGHT
        }
        num_left = sum(1 for event in stretch if event.unit == _LEFT)
        if num_left != sum(1 for event in stretch if event.unit == _RIGHT):
            raise NotRepeating
        for index in range(start, end):
            event = self._parsed[index]
            self._index_of[index] = len(self._events)
            if event.unit == _LEFT:
                offset = event.key[0] - _LEFT if event.key[0] >= 0 else None
                partner = partners.get((event.size, offset, event.key[1]))
                if partner is None:
                    raise NotRepeating
                for unit in range(1, self._num_units - 1):
                    self._emit_middle((event, partner), unit)
            elif event.unit != _RIGHT:
                self._copy(index, index + 1)
        return end

    def _paired(self, left: list[_Event], right: list[_Event]) -> Iterator[tuple[_Event, _Event]]:
        if len(left) != len(right):
            raise NotRepeating
        for one, other in zip(left, right, strict=True):
            if one.size != other.size:
                raise NotRepeating
            if one.key[0] < 0 or other.key[0] < 0:
                raise NotRepeating  # a tensor of no unit can be freed once only
            if one.key[0] - _LEFT != other.key[0] - _RIGHT:
                raise NotRepeating
            if one.key[0] == _LEFT and one.key[1] != other.key[1]:
                raise NotRepeating
            yield one, other

    def _copy(self, start: int, end: int) -> None:
        for index in range(start, end):
            event = self._parsed[index]
            if abs(event.unit - event.key[0]) > 1 and event.key[0] in (_LEFT, _RIGHT):
                raise NotRepeating  # one event cannot free what every middle unit has
            self._index_of[index] = len(self._events)
            self._emit(event, self._final_key(event.key))

    def _final_key(self, key: _Key) -> _Key:
        """Where a tensor of the short trace is in the long one, seen from the ends."""
        if key[0] <= _LEFT:
            return key
        return key[0] - NUM_TRACED_UNITS + self._num_units, key[1]

    def _emit_middle(self, pair: tuple[_Event, _Event], unit: int) -> None:
        left, right = pair
        offset = left.key[0] - _LEFT
        # A neighbour's tensors are counted as that neighbour counts: the ends may have others than the middle.
        near_end = unit == self._num_units - 2 or (offset < 0 and unit > 1)
        chosen = right if near_end else left
        self._emit(chosen, (unit + offset, chosen.key[1]))

    def _emit(self, event: _Event, key: _Key) -> None:
        self._source.append(event.index)
        if event.size:
            self._new_serials[key] = len(self._origin)
            self._origin.append(self._old_serials[event.key])
            self._events.append(event.size)
            return
        serial = self._new_serials.pop(key, None)
        if serial is None:
            raise NotRepeating
        self._events.append(-(serial + 1))
