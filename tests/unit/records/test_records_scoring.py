"""Errors, bands and groups; tolerances and their file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramplan.catalog.toml_file import read_toml
from vramplan.core.report import Component, Peak
from vramplan.errors import UsageError
from vramplan.records.accuracy import Unanswered, accuracy_of
from vramplan.records.scoring import Score, grouped, score, statistics_of
from vramplan.records.tolerances import Limit, Tolerances, exceeded, tolerances_from
from vramplan.records.truth import MeasuredKind, TruthRow

TOLERANCES = Path(__file__).resolve().parents[2] / "truth" / "tolerances.toml"


def _row(measured_bytes: int, kind: MeasuredKind = MeasuredKind.ALLOCATED, source: str = "s") -> TruthRow:
    return TruthRow(id="a", run={}, kind=kind, measured_bytes=measured_bytes, source=source, where="")


def _peak(allocated: int = 800, reserved: int = 900, device: int = 1000, low: int = 950, high: int = 1050) -> Peak:
    return Peak(
        phase="train",
        component=Component.WEIGHTS,
        allocated_bytes=allocated,
        reserved_bytes=reserved,
        device_used_bytes=device,
        low_bytes=low,
        high_bytes=high,
    )


def _score(error: float, kind: MeasuredKind = MeasuredKind.ALLOCATED, half_width: float = 0.05) -> Score:
    predicted = round(10**6 * (1 + error))
    return Score(
        row=_row(10**6, kind),
        method="sft lora",
        quantization="nf4",
        predicted_bytes=predicted,
        low_bytes=round(predicted * (1 - half_width)),
        high_bytes=round(predicted * (1 + half_width)),
    )


@pytest.mark.parametrize(
    ("kind", "predicted", "low", "high"),
    [
        (MeasuredKind.ALLOCATED, 800, 760, 840),
        (MeasuredKind.RESERVED, 900, 855, 945),
        (MeasuredKind.DEVICE_USED, 1000, 950, 1050),
        (MeasuredKind.DEVICE_USED_ABOVE_BASELINE, 1000, 950, 1050),
    ],
)
def test_each_kind_has_its_own_prediction_and_the_bands_proportions(
    kind: MeasuredKind, predicted: int, low: int, high: int
) -> None:
    found = score(_row(1000, kind), _peak(), method="sft", quantization="none")
    assert (found.predicted_bytes, found.low_bytes, found.high_bytes) == (predicted, low, high)


def test_errors_are_signed_against_what_was_measured() -> None:
    found = score(_row(1000), _peak(), method="sft", quantization="none")
    assert found.error_ratio == pytest.approx(-0.2)
    assert found.half_width_ratio == pytest.approx(0.05)
    assert not found.is_inside
    assert score(_row(840), _peak(), method="sft", quantization="none").is_inside
    assert not score(_row(841), _peak(), method="sft", quantization="none").is_inside


def test_statistics_of_a_known_list() -> None:
    found = statistics_of([_score(error) for error in (-0.10, 0.01, -0.02, 0.03, 0.04)])
    assert found.num_rows == 5
    assert found.median_abs_error_ratio == pytest.approx(0.03)
    assert found.p95_abs_error_ratio == pytest.approx(0.10)
    assert (found.worst_under_ratio, found.worst_over_ratio) == (pytest.approx(-0.10), pytest.approx(0.04))
    assert found.inside_ratio == pytest.approx(0.8)
    assert found.median_half_width_ratio == pytest.approx(0.05)


def test_95_of_100_errors_are_no_larger_than_p95() -> None:
    found = statistics_of([_score(number / 1000) for number in range(1, 101)])
    assert found.p95_abs_error_ratio == pytest.approx(0.095)


@given(st.lists(st.floats(-0.5, 0.5), min_size=1, max_size=40))
def test_statistics_bound_each_other(errors: list[float]) -> None:
    found = statistics_of([_score(error) for error in errors])
    assert 0 <= found.median_abs_error_ratio <= found.p95_abs_error_ratio
    assert found.p95_abs_error_ratio <= max(-found.worst_under_ratio, found.worst_over_ratio) + 1e-12
    assert found.worst_under_ratio <= 0 <= found.worst_over_ratio
    assert 0 <= found.inside_ratio <= 1


def test_no_scores_are_no_statistics() -> None:
    with pytest.raises(ValueError, match="no scores"):
        statistics_of([])


def test_groups_hold_every_score_once() -> None:
    scores = [_score(0.0), _score(0.1), _score(0.0, MeasuredKind.RESERVED)]
    groups = grouped(scores)
    assert list(groups) == [("s", "sft lora", "nf4", "allocated"), ("s", "sft lora", "nf4", "reserved")]
    assert sum(map(len, groups.values())) == 3


def test_the_file_is_what_the_program_falls_back_on() -> None:
    assert tolerances_from(read_toml(TOLERANCES).values, "f") == Tolerances()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": {}}, "f must have the tables allocated, reserved, device, band, answers, not"),
        ({"band": {"min_inside": 0.9}}, r"f: \[band\] must have min_inside and max_half_width"),
        ({"allocated": {"median": -1, "p95": 1}}, "f: allocated.median must be a number of at least 0, not -1"),
        ({"answers": {"max_unanswered": True}}, "f: answers.max_unanswered must be a number"),
    ],
)
def test_a_wrong_file_is_refused(change: dict[str, Any], message: str) -> None:
    values = dict(read_toml(TOLERANCES).values) | change
    with pytest.raises(UsageError, match=message):
        tolerances_from(values, "f")


def test_what_is_beyond_tolerance_is_said() -> None:
    wide = Tolerances(allocated=Limit(median=0.5, p95=0.6), reserved=Limit(median=0.01, p95=0.02))
    scores = [_score(0.2), _score(-0.3, MeasuredKind.RESERVED, half_width=0.2)]
    assert list(exceeded(scores, 1, wide)) == [
        "reserved: median error 30.00% is above 1.00%",
        "reserved: p95 error 30.00% is above 2.00%",
        "band: it holds 0.0% of rows, below 95.0%",
        "band: its median half-width 12.5% is above 8.0%",
        "answers: 1 rows have none, and 0 may",
    ]


def test_good_scores_are_within_tolerance() -> None:
    scores = tuple(_score(0.001, kind) for kind in MeasuredKind)
    found = accuracy_of("estimate", scores, (), Tolerances())
    assert found.beyond == ()
    assert {name: item.num_rows for name, item in found.families.items()} == {
        "allocated": 1,
        "reserved": 1,
        "device": 2,
    }


def test_rows_without_an_answer_count() -> None:
    unanswered = (Unanswered(row=_row(1), message="no"),)
    assert accuracy_of("estimate", (), unanswered, Tolerances()).beyond == ("answers: 1 rows have none, and 0 may",)
