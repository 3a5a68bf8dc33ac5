"""Arithmetic on sizes that is written down while it is done, to be done again for other sizes.

The formulas are written for ints. Given a Variable in place of one they work as ever, and its Recording then knows how
every size came about, and what each comparison came to. As long as the comparisons come to the same for other sizes,
the formulas would have gone the same way, and the sizes are what the written-down arithmetic makes of them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

Operation = Callable[[Any, Any], Any]


class Recording:
    """Arithmetic on some inputs.

    Args:
        values: of the inputs, now.
    """

    __slots__ = ("_comparisons", "_constants", "_results", "_steps", "inputs", "values")

    def __init__(self, values: Sequence[int]) -> None:
        """See the class."""
        self.values: list[int] = []
        self.inputs = tuple(self._new(value) for value in values)
        self._constants: dict[int, int] = {}
        self._results: dict[tuple[Operation, int, int], Variable] = {}
        self._comparisons: dict[tuple[Operation, int, int], bool] = {}
        # (operation, left, right, where its result goes or -1, what it came to if it is a comparison) in order
        self._steps: list[tuple[Operation, int, int, int, bool | None]] = []

    def index(self, size: int | Variable) -> int:
        """Where `again` puts a size."""
        if isinstance(size, Variable):
            return size.index
        known = self._constants.get(size)
        if known is None:
            known = self._constants[size] = self._new(size).index
        return known

    def result(self, operation: Operation, left: int | Variable, right: int | Variable) -> Variable:
        """What an operation makes of two sizes."""
        key = operation, self.index(left), self.index(right)
        known = self._results.get(key)
        if known is None:
            known = self._new(operation(*(self.values[index] for index in key[1:])))
            self._results[key] = known
            self._steps.append((*key, known.index, None))
        return known

    def compared(self, operation: Operation, left: int | Variable, right: int | Variable) -> bool:
        """What a comparison of two sizes comes to."""
        key = operation, self.index(left), self.index(right)
        known = self._comparisons.get(key)
        if known is None:
            known = self._comparisons[key] = operation(*(self.values[index] for index in key[1:]))
            self._steps.append((*key, -1, known))
        return known

    def close(self) -> None:
        """Ends the recording: it and its variables point at each other no more, and go without a search for cycles."""
        self.inputs = ()
        self._results.clear()

    def again(self, values: Sequence[int]) -> list[int] | None:
        """Every size for other values of the inputs, by index; None where a comparison comes to something else."""
        found = self.values.copy()
        found[: len(values)] = values
        for operation, left, right, place, expected in self._steps:
            result = operation(found[left], found[right])
            if expected is None:
                found[place] = result
            elif result is not expected:
                return None
        return found

    def _new(self, value: int) -> Variable:
        self.values.append(value)
        return Variable(self, value, len(self.values) - 1)


class Variable:
    """A size of a Recording.

    Args:
        recording: where arithmetic on it is written down.
        value: what it is now.
        index: where `Recording.again` puts it.
    """

    __slots__ = ("_recording", "index", "value")
    __hash__ = None  # type: ignore[assignment]  # what is looked up by a size would not be looked up again

    def __init__(self, recording: Recording, value: int, index: int) -> None:
        """See the class."""
        self._recording = recording
        self.value = value
        self.index = index

    def __add__(self, other: int | Variable) -> Variable:
        return self._recording.result(operator.add, self, other)

    __radd__ = __add__

    def __sub__(self, other: int | Variable) -> Variable:
        return self._recording.result(operator.sub, self, other)

    def __rsub__(self, other: int) -> Variable:
        return self._recording.result(operator.sub, other, self)

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, (int, Variable)):
            return self._recording.result(operator.mul, self, other)
        return NotImplemented

    def __rmul__(self, other: Any) -> Any:
        if isinstance(other, (tuple, list)):
            return other * int(self)
        return self * other

    def __floordiv__(self, other: int | Variable) -> Variable:
        return self._recording.result(operator.floordiv, self, other)

    def __rfloordiv__(self, other: int) -> Variable:
        return self._recording.result(operator.floordiv, other, self)

    def __mod__(self, other: int | Variable) -> Variable:
        return self._recording.result(operator.mod, self, other)

    def __neg__(self) -> Variable:
        return 0 - self

    def __bool__(self) -> bool:
        return self != 0

    def __index__(self) -> int:
        """Used as a count: only for this value do the formulas go this way."""
        self._recording.compared(operator.eq, self, self.value)
        return self.value

    __int__ = __index__

    def __eq__(self, other: object) -> bool:
        return self._compared(operator.eq, other)

    def __ne__(self, other: object) -> bool:
        return self._compared(operator.ne, other)

    def __lt__(self, other: int | Variable) -> bool:
        return self._compared(operator.lt, other)

    def __le__(self, other: int | Variable) -> bool:
        return self._compared(operator.le, other)

    def __gt__(self, other: int | Variable) -> bool:
        return self._compared(operator.gt, other)

    def __ge__(self, other: int | Variable) -> bool:
        return self._compared(operator.ge, other)

    def _compared(self, comparison: Operation, other: object) -> bool:
        if other is self:
            return bool(comparison(0, 0))
        assert isinstance(other, (int, Variable))
        return self._recording.compared(comparison, self, other)
