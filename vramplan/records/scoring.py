"""Predictions against measurements: signed errors, the band, and their statistics by group."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vramplan.core.report import Peak
from vramplan.records.truth import MeasuredKind, TruthRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One row's prediction.

    Args:
        row: what was measured.
        method: of the run, as resolved: `sft lora`, `inference`.
        quantization: of the run's first model.
        predicted_bytes: of the row's own kind.
        low_bytes, high_bytes: the band around it.
    """

    row: TruthRow
    method: str
    quantization: str
    predicted_bytes: int
    low_bytes: int
    high_bytes: int

    @property
    def error_ratio(self) -> float:
        """(predicted - measured) / measured: below 0 is an out-of-memory in waiting."""
        return self.predicted_bytes / self.row.measured_bytes - 1

    @property
    def is_inside(self) -> bool:
        """Whether the band holds what was measured."""
        return self.low_bytes <= self.row.measured_bytes <= self.high_bytes

    @property
    def half_width_ratio(self) -> float:
        """Half the band's width against the prediction."""
        return (self.high_bytes - self.low_bytes) / 2 / self.predicted_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Errors of a group of rows, as ratios.

    Args:
        num_rows: how many.
        median_abs_error_ratio: half of the errors are smaller.
        p95_abs_error_ratio: 95 in 100 are no larger (nearest rank: one of the errors, not between two).
        worst_under_ratio: the lowest prediction, 0 where none was too low.
        worst_over_ratio: the highest, 0 where none was too high.
        inside_ratio: rows whose band holds the measurement.
        median_half_width_ratio: half of the bands are narrower.
    """

    num_rows: int
    median_abs_error_ratio: float
    p95_abs_error_ratio: float
    worst_under_ratio: float
    worst_over_ratio: float
    inside_ratio: float
    median_half_width_ratio: float


def score(row: TruthRow, peak: Peak, *, method: str, quantization: str) -> Score:
    """A row against the report's peak.

    The band is of device_used; around the other two it keeps its proportions. A peak above the idle card still has the
    context of the process in it, and that is what device_used is.
    """
    predicted = {
        MeasuredKind.ALLOCATED: peak.allocated_bytes,
        MeasuredKind.RESERVED: peak.reserved_bytes,
        MeasuredKind.DEVICE_USED: peak.device_used_bytes,
        MeasuredKind.DEVICE_USED_ABOVE_BASELINE: peak.device_used_bytes,
    }[row.kind]
    return Score(
        row=row,
        method=method,
        quantization=quantization,
        predicted_bytes=predicted,
        low_bytes=predicted * peak.low_bytes // peak.device_used_bytes,
        high_bytes=-(-predicted * peak.high_bytes // peak.device_used_bytes),
    )


def statistics_of(scores: Sequence[Score]) -> Statistics:
    """Statistics of at least one score.

    Raises:
        ValueError: there are none.
    """
    if not scores:
        raise ValueError("no scores")
    errors = [item.error_ratio for item in scores]
    sizes = sorted(abs(error) for error in errors)
    return Statistics(
        num_rows=len(scores),
        median_abs_error_ratio=statistics.median(sizes),
        p95_abs_error_ratio=sizes[math.ceil(0.95 * len(sizes)) - 1],
        worst_under_ratio=min(0.0, *errors),
        worst_over_ratio=max(0.0, *errors),
        inside_ratio=sum(item.is_inside for item in scores) / len(scores),
        median_half_width_ratio=statistics.median(item.half_width_ratio for item in scores),
    )


GroupKey = tuple[str, str, str, str]
"""Source, method, quantisation, kind."""


def group_key(item: Score) -> GroupKey:
    """The finest group that a score is in."""
    return item.row.source, item.method, item.quantization, item.row.kind.value


def grouped(scores: Iterable[Score]) -> dict[GroupKey, list[Score]]:
    """Scores by group, in the groups' alphabetical order."""
    groups: dict[GroupKey, list[Score]] = {}
    for item in scores:
        groups.setdefault(group_key(item), []).append(item)
    return dict(sorted(groups.items()))
