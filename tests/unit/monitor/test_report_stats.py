"""What a report says of a curve whose answer is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramplan.monitor.log_phases import find_phases
from vramplan.monitor.log_reader import ReadLog
from vramplan.monitor.log_rows import Row
from vramplan.monitor.log_stats import log_stats
from vramplan.output.log_report_series import series_of, thinned

GB = 10**9
CAPACITY = 80 * GB


def row(at, used, *, gpu="0", **sizes):
    found = {"total": CAPACITY, **sizes}
    if used is not None:
        found["used"] = used
    return Row(line=1, time=1000.0 + at, sizes=found, texts={"index": gpu})


def stats(rows, **options):
    (found,) = log_stats(ReadLog(source="x.csv", format="nvidia-smi", rows=rows), **options)
    return found


def curve(*used, step=1.0):
    return [row(at * step, value) for at, value in enumerate(used)]


def test_peak_mean_and_percentile():
    found = stats(curve(*range(100)))
    assert (found.peak_used_bytes, found.peak_seconds) == (99, 99.0)
    assert found.mean_used_bytes == round(49.5)
    assert found.p95_used_bytes == round(0.95 * 99)
    assert (found.capacity_bytes, found.usable_bytes) == (CAPACITY, CAPACITY)


def test_the_mean_is_over_time_and_a_gap_counts_no_more_than_a_step():
    rows = [row(0, 100), row(1, 100), row(2, 100), row(3, 0), row(103, 0)]
    found = stats(rows)
    assert [(gap.start_seconds, gap.num_seconds) for gap in found.gaps] == [(3.0, 100.0)]
    assert found.mean_used_bytes == 60


def test_time_above_thresholds():
    found = stats(curve(10, 70 * GB, 70 * GB, 10, 79 * GB, 10), thresholds=[50 * GB, 75 * GB])
    assert [(one.threshold_bytes, one.num_seconds, one.num_samples) for one in found.above] == [
        (50 * GB, 3.0, 3),
        (75 * GB, 1.0, 1),
    ]


def test_thresholds_are_shares_of_the_capacity_where_none_is_given():
    found = stats(curve(1, 2))
    assert [one.threshold_bytes for one in found.above] == [64 * GB, 72 * GB, 76 * GB]


def test_a_leak_is_found_under_a_saw():
    used = [20 * GB + at * 10**6 + (5 * GB if at % 10 < 5 else 0) for at in range(3600)]
    found = stats(curve(*used))
    assert found.looks_like_leak
    assert found.growth_bytes_per_hour == pytest.approx(3600 * 10**6, rel=0.02)


@pytest.mark.parametrize("wave", [0, 5 * GB])
def test_a_steady_run_is_no_leak(wave):
    found = stats(curve(*[20 * GB + (wave if at % 10 < 5 else 0) for at in range(3600)]))
    assert not found.looks_like_leak
    assert found.growth_bytes_per_hour == 0


def test_loading_at_the_start_is_no_leak():
    found = stats(curve(*[min(at * GB // 10, 40 * GB) for at in range(3600)]))
    assert not found.looks_like_leak


def test_a_log_too_short_to_tell_says_none():
    assert stats(curve(1, 2, 3)).growth_bytes_per_hour is None


def test_levels_and_steps_are_found():
    found = stats(curve(*[GB] * 50, *[20 * GB] * 100, *[40 * GB] * 50))
    levels = [(one.kind, one.num_samples, one.mean_bytes) for one in found.phases]
    assert levels == [("level", 50, GB), ("level", 100, 20 * GB), ("level", 50, 40 * GB)]


def test_a_ramp_rises_and_an_outlier_does_not_part_a_level():
    found = stats(curve(*[GB] * 50, *[at * GB for at in range(2, 30)], *[30 * GB] * 100))
    kinds = [one.kind for one in found.phases]
    assert (kinds[0], kinds[-1]) == ("level", "level")
    assert set(kinds[1:-1]) == {"rise"}
    parted = stats(curve(*[20 * GB] * 50, GB, *[20 * GB] * 50))
    assert [(one.kind, one.num_samples) for one in parted.phases] == [("level", 101)]


@given(st.lists(st.integers(0, 80 * GB), min_size=1, max_size=300))
def test_phases_hold_every_sample_once_and_are_few(used):
    phases = find_phases([float(at) for at in range(len(used))], used)
    assert sum(one.num_samples for one in phases) == len(used)
    assert max(one.peak_bytes for one in phases) == max(used)
    assert len(phases) <= 60
    assert all(one.start_seconds <= one.end_seconds for one in phases)


def test_two_writers_rows_are_put_in_order():
    rows = [row(at, at) for pair in zip(range(50), range(50, 100), strict=True) for at in pair]
    found = stats(rows)
    assert found.used == list(range(100))
    assert "two writers" in found.timeline.notes[0]


def test_a_clock_that_was_set_back_does_not_bend_the_curve():
    rows = [row(at if at < 500 else at - 3600, at) for at in range(1000)]
    found = stats(rows)
    assert found.used == list(range(1000))
    assert found.seconds == [float(at) for at in range(1000)]
    assert "set back 1 times" in found.timeline.notes[0]


def test_our_own_seconds_are_believed_over_the_wall_clock_and_a_resume_is_a_gap():
    rows = []
    for start in (0, 500):
        for at in range(10):
            one = row(start + at, 5)
            one.numbers["elapsed"] = float(at)
            rows.append(one)
    found = stats(rows)
    assert found.seconds[9:11] == [9.0, 500.0]
    assert len(found.gaps) == 1
    assert "resumed 1 times" in found.timeline.notes[0]


def test_without_times_there_are_samples_and_no_durations():
    rows = [Row(line=1, sizes={"used": at}, texts={"index": "0"}) for at in range(5)]
    found = stats(rows)
    assert (found.peak_used_bytes, found.timeline.interval_seconds, found.gaps) == (4, None, [])
    assert found.growth_bytes_per_hour is None


def test_missing_readings_are_counted_and_not_zero():
    rows = curve(5, 6, 7)
    rows[1].sizes.pop("used")
    rows[1].texts["status"] = "lost"
    found = stats(rows)
    assert (found.used, found.statuses) == ([5, 7], {"lost": 1})


def test_processes_have_their_peaks():
    rows = curve(5, 6)
    rows[0].texts["processes"] = "11=700 12="
    rows[1].texts["processes"] = "11=900"
    found = stats(rows)
    assert [(one.pid, one.peak_bytes, one.num_samples) for one in found.processes] == [(11, 900, 2), (12, None, 1)]


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=3000), st.integers(4, 200))
def test_thinning_keeps_the_ends_and_the_extremes(values, most):
    kept = thinned(values, most)
    assert kept == sorted(set(kept))
    assert (kept[0], kept[-1]) == (0, len(values) - 1)
    assert max(values[at] for at in kept) == max(values)
    assert min(values[at] for at in kept) == min(values)
    assert len(kept) <= max(most + 2, 0)


def test_a_curve_is_not_drawn_across_a_gap():
    found = stats([row(0, 1), row(1, 2), row(2, 3), row(100, 4)])
    series = series_of(ReadLog(source="x.csv", format="native"), found, several_logs=False)
    assert series.used == [1, 2, 3, None, 4]
