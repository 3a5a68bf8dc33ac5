"""Grid: a size that has one value for each of many settings, and stands in for an int in the formulas.

The formulas are written for ints. Arithmetic on a Grid works on all settings at once; where the code branches, all
settings must take the same side, and `SplitError` says which ones part ways so that the caller evaluates each side by
itself. So there is one set of formulas, and its answers are the same to the byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

Values: TypeAlias = Any
"""An int64 array with one value for each setting."""
Mask: TypeAlias = Any
"""A bool array with one value for each setting."""


class SplitError(Exception):
    """Settings that do not take the same branch: evaluate those inside and outside the mask apart."""

    def __init__(self, mask: Mask) -> None:
        """See the class."""
        super().__init__("settings part ways here")
        self.mask = mask


class Grid:
    """One int for each setting.

    Args:
        values: the ints.
    """

    __slots__ = ("high", "low", "values")
    __hash__ = None  # type: ignore[assignment]  # sizes are no keys

    def __init__(self, values: Values) -> None:
        """Bounds are kept because most comparisons are decided by them alone."""
        self.values = values
        self.low, self.high = int(values.min()), int(values.max())

    @classmethod
    def _within(cls, values: Values, low: int, high: int) -> Grid:
        grid = cls.__new__(cls)
        grid.values, grid.low, grid.high = values, low, high
        return grid

    def __add__(self, other: Grid | int) -> Grid:
        if isinstance(other, Grid):
            return Grid._within(self.values + other.values, self.low + other.low, self.high + other.high)
        return Grid._within(self.values + other, self.low + other, self.high + other)

    __radd__ = __add__

    def __neg__(self) -> Grid:
        return Grid._within(-self.values, -self.high, -self.low)

    def __sub__(self, other: Grid | int) -> Grid:
        return self + -other

    def __rsub__(self, other: int) -> Grid:
        return -self + other

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, Grid):
            bounds = [low * high for low in (self.low, self.high) for high in (other.low, other.high)]
            return Grid._within(self.values * other.values, min(bounds), max(bounds))
        if isinstance(other, int):
            bounds = [self.low * other, self.high * other]
            return Grid._within(self.values * other, min(bounds), max(bounds))
        return NotImplemented

    def __rmul__(self, other: Any) -> Any:
        if isinstance(other, (tuple, list)):
            return self._repeat(other)
        return self * other

    def _repeat(self, items: Sequence[Any]) -> tuple[Any, ...]:
        """`(size,) * count`: as many as the largest setting has; the others have sizes of 0 at the end, no bytes."""
        (item,) = items
        if self.low == self.high:
            return (item,) * self.low
        return tuple(item * Grid((self.values > index).astype(np.int64)) for index in range(self.high))

    def __floordiv__(self, other: Grid | int) -> Grid:
        if isinstance(other, Grid):
            return Grid(self.values // other.values)
        return Grid._within(self.values // other, self.low // other, self.high // other)

    def __rfloordiv__(self, other: int) -> Grid:
        return Grid(other // self.values)

    def __mod__(self, other: int) -> Grid:
        rest = self.values % other
        _decide(rest == 0)  # the formulas ask whether something is a multiple: all are, or none
        return Grid(rest)

    def __bool__(self) -> bool:
        # A size of 0 in some settings only is an allocation of no bytes there.
        return self.high > 0 or self.low < 0

    def __index__(self) -> int:
        if self.low != self.high:
            raise SplitError(self.values == self.low)
        return self.low

    __int__ = __index__

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        low, high = _bounds(other)
        if self.low > high or self.high < low:
            return False
        return _decide(self.values == _values(other))

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __lt__(self, other: Grid | int) -> bool:
        low, high = _bounds(other)
        return self._ordered(self.high < low, self.low >= high, self.values < _values(other))

    def __le__(self, other: Grid | int) -> bool:
        return not self > other

    def __gt__(self, other: Grid | int) -> bool:
        low, high = _bounds(other)
        return self._ordered(self.low > high, self.high <= low, self.values > _values(other))

    def __ge__(self, other: Grid | int) -> bool:
        return not self < other

    @staticmethod
    def _ordered(always: bool, never: bool, each: Mask) -> bool:
        return always or (not never and _decide(each))


def is_grid(size: Any) -> bool:
    """Whether a size is one for each setting."""
    return isinstance(size, Grid)


def _values(other: object) -> Any:
    return other.values if isinstance(other, Grid) else other


def _bounds(other: object) -> tuple[int, int]:
    if isinstance(other, Grid):
        return other.low, other.high
    assert isinstance(other, int)
    return other, other


def _decide(each: Mask) -> bool:
    if each.all():
        return True
    if each.any():
        raise SplitError(each)
    return False
