"""A Grid does to every setting what an int does to one, and says where settings part ways."""

from __future__ import annotations

import operator
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramplan.formula.blocks import allocated as allocated_one
from vramplan.planner.search.grid import Grid, SplitError
from vramplan.planner.search.levels import allocated

SIZES = st.lists(st.integers(1, 2**40), min_size=1, max_size=8)


def grid(values: list[int]) -> Grid:
    return Grid(np.array(values, dtype=np.int64))


@pytest.mark.parametrize("operation", [operator.add, operator.sub, operator.floordiv, operator.mul])
@given(values=st.lists(st.integers(1, 2**20), min_size=1, max_size=8), other=st.integers(1, 2**20))
def test_arithmetic_with_an_int_is_that_of_each_value(
    operation: Callable[..., Grid], values: list[int], other: int
) -> None:
    found = operation(grid(values), other)
    wanted = [operation(value, other) for value in values]
    assert found.values.tolist() == wanted
    assert found.low <= min(wanted)
    assert found.high >= max(wanted)
    backwards = operation(other, grid(values))
    assert backwards.values.tolist() == [operation(other, value) for value in values]


@given(pairs=st.lists(st.tuples(st.integers(1, 2**20), st.integers(1, 2**20)), min_size=1, max_size=8))
def test_arithmetic_of_two_grids_is_that_of_their_values(pairs: list[tuple[int, int]]) -> None:
    left, right = grid([one for one, _ in pairs]), grid([other for _, other in pairs])
    for operation in (operator.add, operator.sub, operator.mul, operator.floordiv):
        assert operation(left, right).values.tolist() == [operation(*pair) for pair in pairs]


@given(values=SIZES, other=st.integers(1, 2**40))
def test_a_comparison_is_one_answer_or_a_split(values: list[int], other: int) -> None:
    for compare in (operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne):
        each = [compare(value, other) for value in values]
        if len(set(each)) == 1:
            assert compare(grid(values), other) is each[0]
        else:
            with pytest.raises(SplitError) as split:
                compare(grid(values), other)
            sides = {tuple(np.array(each)[split.value.mask]), tuple(np.array(each)[~split.value.mask])}
            assert all(len(set(side)) == 1 for side in sides)


@given(values=SIZES, multiple=st.sampled_from([2, 16, 64]))
def test_what_is_a_multiple_in_some_settings_only_is_a_split(values: list[int], multiple: int) -> None:
    rests = [value % multiple for value in values]
    if all(rests) or not any(rests):
        assert bool(grid(values) % multiple) is bool(rests[0])
    else:
        with pytest.raises(SplitError):
            _ = grid(values) % multiple


def test_repeats_are_as_many_as_the_largest_has_and_empty_for_the_others() -> None:
    parts = (grid([10, 20, 30]),) * grid([1, 3, 2])  # type: ignore[operator]
    assert [part.values.tolist() for part in parts] == [[10, 20, 30], [0, 20, 30], [0, 20, 0]]


def test_an_index_needs_one_value() -> None:
    assert list(range(grid([3, 3]))) == [0, 1, 2]  # type: ignore[call-overload]
    with pytest.raises(SplitError):
        range(grid([3, 4]))  # type: ignore[call-overload]


@given(values=SIZES)
def test_blocks_are_those_of_the_formulas(values: list[int]) -> None:
    assert allocated(np.array(values, dtype=np.int64)).tolist() == [allocated_one(value) for value in values]


def test_nothing_is_no_block() -> None:
    assert allocated(np.array([0], dtype=np.int64)).tolist() == [0]
