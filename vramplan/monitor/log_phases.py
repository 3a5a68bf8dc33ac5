"""Phases of a memory curve: where it stays on a level, and what lies between.

A caching allocator holds what it has taken, so a training run's curve is mostly level with steps between. A level is a
stretch whose values stay within a tolerance for long enough; what lies between levels rises, falls or varies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vramplan.units import MiB

_TOLERANCE_RATIO = 0.05
"""Of the curve's range: below it, steps are the allocator's rounding and other processes' noise."""
_LEAST_TOLERANCE_BYTES = 64 * MiB
_COARSE_RATIO = 0.3
"""Of the curve's range: what varies within it is one stretch."""
_LEAST_SAMPLES = 3
_LEAST_DURATION_RATIO = 0.02
_MOST_PHASES = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePhase:
    """A stretch of the curve.

    Args:
        kind: level, rise, fall or varying.
        start_seconds: of its first sample.
        end_seconds: of its last.
        mean_bytes: over its samples.
        peak_bytes: its highest.
        num_samples: in it.
    """

    kind: str
    start_seconds: float
    end_seconds: float
    mean_bytes: int
    peak_bytes: int
    num_samples: int


def find_phases(seconds: Sequence[float], used: Sequence[int]) -> list[CurvePhase]:
    """Levels and what lies between, in the order of time; together they hold every sample once."""
    if not used:
        return []
    tolerance = max(_LEAST_TOLERANCE_BYTES, _TOLERANCE_RATIO * (max(used) - min(used)))
    ratio, coarse = _LEAST_DURATION_RATIO, _COARSE_RATIO * (max(used) - min(used))
    while True:
        stretches = _joined(_stretches(used, tolerance), seconds, used, (ratio, tolerance, coarse))
        if len(stretches) <= _MOST_PHASES:
            return [_phase(seconds, used, start, end, is_level) for start, end, is_level in stretches]
        ratio, tolerance, coarse = ratio * 2, tolerance * 1.5, coarse * 2


def _stretches(used: Sequence[int], tolerance: float) -> list[tuple[int, int]]:
    found, start, low, high = [], 0, used[0], used[0]
    for at, value in enumerate(used):
        low, high = min(low, value), max(high, value)
        if high - low > tolerance:
            found.append((start, at))
            start, low, high = at, value, value
    found.append((start, len(used)))
    return found


def _joined(
    stretches: Sequence[tuple[int, int]],
    seconds: Sequence[float],
    used: Sequence[int],
    limits: tuple[float, float, float],
) -> list[tuple[int, int, bool]]:
    """Short stretches near each other become one that is no level; levels that only an outlier parts become one."""
    ratio, tolerance, coarse = limits
    least = ratio * (seconds[-1] - seconds[0])
    joined: list[tuple[int, int, bool]] = []
    low = high = 0
    for start, end in stretches:
        is_level = end - start >= _LEAST_SAMPLES and seconds[end - 1] - seconds[start] >= least
        values = used[start:end]
        near = max(high, *values) - min(low, *values) <= coarse
        if joined and not is_level and not joined[-1][2] and near:
            joined[-1] = (joined[-1][0], end, False)
            low, high = min(low, *values), max(high, *values)
        else:
            joined.append((start, end, is_level))
            low, high = min(values), max(values)
    merged: list[tuple[int, int, bool]] = []
    for stretch in joined:
        if (
            len(merged) >= 2
            and stretch[2]
            and merged[-2][2]
            and merged[-1][1] - merged[-1][0] < _LEAST_SAMPLES
            and abs(_mean(used, stretch) - _mean(used, merged[-2])) <= tolerance
        ):
            merged[-2:] = [(merged[-2][0], stretch[1], True)]
        else:
            merged.append(stretch)
    return merged


def _mean(used: Sequence[int], stretch: tuple[int, int, bool]) -> float:
    return sum(used[stretch[0] : stretch[1]]) / (stretch[1] - stretch[0])


def _phase(seconds: Sequence[float], used: Sequence[int], start: int, end: int, is_level: bool) -> CurvePhase:
    values = used[start:end]
    kind = "level"
    if not is_level:
        before = used[start - 1] if start else values[0]
        after = used[end] if end < len(used) else values[-1]
        low, high = min(before, after), max(before, after)
        inside = all(low <= value <= high for value in values)
        kind = "varying" if not inside or before == after else "rise" if after > before else "fall"
    return CurvePhase(
        kind=kind,
        start_seconds=seconds[start],
        end_seconds=seconds[end - 1],
        mean_bytes=round(sum(values) / len(values)),
        peak_bytes=max(values),
        num_samples=len(values),
    )
