from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramplan.monitor.pacer import Pacer


def test_a_quick_answer_is_followed_by_the_next_point_of_the_grid():
    pacer = Pacer(100.0, 5.0)
    assert (pacer.number, pacer.due) == (0, 100.0)
    pacer.advance(0, 100.01)
    assert (pacer.number, pacer.due) == (1, 105.0)


def test_what_a_stall_missed_is_skipped():
    pacer = Pacer(100.0, 5.0)
    pacer.advance(0, 117.0)
    assert (pacer.number, pacer.due) == (4, 120.0)


def test_a_tick_taken_late_has_the_number_of_its_time():
    pacer = Pacer(100.0, 5.0)
    assert pacer.number_at(100.0) == 0
    assert pacer.number_at(113.0) == 2


@given(
    interval=st.floats(0.01, 3600),
    steps=st.lists(st.floats(0, 10), min_size=1, max_size=50),
)
def test_numbers_rise_and_the_next_tick_is_never_in_the_past(interval, steps):
    pacer, now, last = Pacer(1000.0, interval), 1000.0, -1
    for step in steps:
        now = max(now, pacer.due)
        taken = pacer.number_at(now)
        assert taken > last
        last = taken
        now += step * interval
        pacer.advance(taken, now)
        assert pacer.due >= now - 1e-6


def test_an_interval_is_positive():
    with pytest.raises(ValueError, match="longer than zero"):
        Pacer(0.0, 0.0)
