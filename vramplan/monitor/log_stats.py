"""What a timeline says: peak, mean, percentile, time above thresholds, growth, phases, processes; with pandas.

Growth is looked for at the curve's lower edge, since its upper edge moves with the batch: the median slope (Theil-Sen)
of the minima of 40 equal windows after the first quarter, which is warm-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from vramplan.monitor.log_phases import CurvePhase, find_phases
from vramplan.monitor.log_reader import ReadLog
from vramplan.monitor.log_timeline import Gap, GpuTimeline, timelines
from vramplan.units import MiB

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_RATIOS = (0.8, 0.9, 0.95)
_WINDOWS = 40
_WARM_UP = 0.25
_LEAST_SAMPLES_FOR_GROWTH = 20
_LEAST_SECONDS_FOR_GROWTH = 120.0
_LEAK_RISES = 0.9
_LEAK_BYTES = 256 * MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Above:
    """Time spent above a number of bytes."""

    threshold_bytes: int
    num_seconds: float | None
    num_samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessPeak:
    """One process on one GPU."""

    pid: int
    name: str | None
    peak_bytes: int | None
    num_samples: int


@dataclass(slots=True, kw_only=True)
class GpuStats:
    """One GPU of one log; None is what the log does not tell.

    Args:
        timeline: what it was computed from.
        seconds: of the samples that have `used`.
        used: bytes, one a second in `seconds`.
        mean_used_bytes: over time where there are times, gaps left out; else over samples.
        p95_used_bytes: 95 % of the samples are not above it.
        growth_bytes_per_hour: None for a log too short to tell.
        looks_like_leak: the lower edge rises steadily, and by more than noise.
    """

    timeline: GpuTimeline
    seconds: list[float]
    used: list[int]
    capacity_bytes: int | None
    reserved_bytes: int | None
    peak_used_bytes: int | None
    peak_seconds: float | None
    mean_used_bytes: int | None
    p95_used_bytes: int | None
    min_used_bytes: int | None
    peak_watched_bytes: int | None
    above: list[Above]
    growth_bytes_per_hour: int | None
    looks_like_leak: bool
    phases: list[CurvePhase]
    processes: list[ProcessPeak]
    predicted: tuple[int | None, int | None, int | None]
    statuses: dict[str, int]
    gaps: list[Gap] = field(default_factory=list)

    @property
    def usable_bytes(self) -> int | None:
        """What CUDA can have: the capacity without the driver's reserve, as far as the log tells."""
        return None if self.capacity_bytes is None else self.capacity_bytes - (self.reserved_bytes or 0)


def log_stats(log: ReadLog, thresholds: Sequence[int] = (), capacity_bytes: int | None = None) -> list[GpuStats]:
    """One entry a GPU, in the log's order.

    Args:
        log: as read.
        thresholds: bytes to measure the time above; 80, 90 and 95 % of the capacity where none is given.
        capacity_bytes: for logs that do not say a total.
    """
    return [_stats(timeline, thresholds, capacity_bytes) for timeline in timelines(log)]


def _frame(timeline: GpuTimeline) -> pd.DataFrame:
    import pandas as pd

    rows = timeline.rows
    frame: pd.DataFrame = pd.DataFrame(
        {
            "seconds": timeline.seconds,
            "used": pd.array([row.sizes.get("used") for row in rows], dtype="Int64"),
            "total": pd.array([row.sizes.get("total") for row in rows], dtype="Int64"),
            "reserved": pd.array([row.sizes.get("reserved") for row in rows], dtype="Int64"),
            "watched": pd.array([row.sizes.get("watched") for row in rows], dtype="Int64"),
        }
    )
    return frame


def _stats(timeline: GpuTimeline, thresholds: Sequence[int], capacity_bytes: int | None) -> GpuStats:
    frame = _frame(timeline)
    known = frame.dropna(subset=["used"])
    seconds = [float(value) for value in known["seconds"]]
    used = [int(value) for value in known["used"]]
    total = frame["total"].dropna()
    capacity = int(total.max()) if len(total) else capacity_bytes
    reserved, watched = frame["reserved"].dropna(), frame["watched"].dropna()
    weights = None if timeline.interval_seconds is None else _weights(seconds, timeline)
    limits = list(thresholds) or ([] if capacity is None else [int(capacity * ratio) for ratio in DEFAULT_RATIOS])
    growth, is_leak = _growth(seconds, used, capacity) if timeline.start_time is not None else (None, False)
    peak_at = int(known["used"].to_numpy(dtype="int64").argmax()) if used else None
    return GpuStats(
        timeline=timeline,
        seconds=seconds,
        used=used,
        capacity_bytes=capacity,
        reserved_bytes=int(reserved.max()) if len(reserved) else None,
        peak_used_bytes=None if peak_at is None else used[peak_at],
        peak_seconds=None if peak_at is None else seconds[peak_at],
        mean_used_bytes=_mean(used, weights),
        p95_used_bytes=round(float(known["used"].astype("float64").quantile(0.95))) if used else None,
        min_used_bytes=min(used) if used else None,
        peak_watched_bytes=int(watched.max()) if len(watched) else None,
        above=[_above(limit, used, weights) for limit in limits],
        growth_bytes_per_hour=growth,
        looks_like_leak=is_leak,
        phases=find_phases(seconds, used) if timeline.start_time is not None else [],
        processes=_processes(timeline),
        predicted=_predicted(timeline),
        statuses=_statuses(timeline),
        gaps=timeline.gaps,
    )


def _weights(seconds: Sequence[float], timeline: GpuTimeline) -> list[float]:
    """How long each sample stands for: until the next one, but through a gap no longer than usual."""
    interval = timeline.interval_seconds or 0.0
    in_gap = {gap.start_seconds for gap in timeline.gaps}
    steps = [interval if start in in_gap else end - start for start, end in pairwise(seconds)]
    return [*steps, interval] if seconds else []


def _mean(used: Sequence[int], weights: Sequence[float] | None) -> int | None:
    if not used:
        return None
    if weights is None or sum(weights) <= 0:
        return round(sum(used) / len(used))
    return round(sum(value * weight for value, weight in zip(used, weights, strict=True)) / sum(weights))


def _above(limit: int, used: Sequence[int], weights: Sequence[float] | None) -> Above:
    over = [at for at, value in enumerate(used) if value > limit]
    seconds = None if weights is None else sum(weights[at] for at in over)
    return Above(threshold_bytes=limit, num_seconds=seconds, num_samples=len(over))


def _growth(seconds: Sequence[float], used: Sequence[int], capacity: int | None) -> tuple[int | None, bool]:
    import numpy as np

    if len(used) < _LEAST_SAMPLES_FOR_GROWTH or seconds[-1] - seconds[0] < _LEAST_SECONDS_FOR_GROWTH:
        return None, False
    times, values = np.asarray(seconds), np.asarray(used, dtype="float64")
    start = times[0] + _WARM_UP * (times[-1] - times[0])
    times, values = times[times >= start], values[times >= start]
    if len(values) < _LEAST_SAMPLES_FOR_GROWTH // 2:
        return None, False
    edges = np.linspace(times[0], times[-1], _WINDOWS + 1)
    window = np.clip(np.searchsorted(edges, times, side="right") - 1, 0, _WINDOWS - 1)
    filled = np.unique(window)
    low = np.array([values[window == one].min() for one in filled])
    middle = (edges[filled] + edges[filled + 1]) / 2
    first, second = np.triu_indices(len(low), k=1)
    slopes = (low[second] - low[first]) / (middle[second] - middle[first])
    if not len(slopes):
        return None, False
    slope = float(np.median(slopes))
    rises = float((slopes > 0).mean())
    least = max(_LEAK_BYTES, 0.01 * (capacity or 0))
    is_leak = rises >= _LEAK_RISES and slope * (times[-1] - times[0]) > least
    return round(slope * 3600), bool(is_leak)


def _processes(timeline: GpuTimeline) -> list[ProcessPeak]:
    peaks: dict[int, int | None] = {}
    counts: dict[int, int] = {}
    names: dict[int, str] = {}
    for row in timeline.rows:
        for pid, size in row.processes().items():
            counts[pid] = counts.get(pid, 0) + 1
            before = peaks.get(pid)
            peaks[pid] = before if size is None else size if before is None else max(before, size)
            if "process_name" in row.texts:
                names[pid] = row.texts["process_name"]
    found = [
        ProcessPeak(pid=pid, name=names.get(pid), peak_bytes=peak, num_samples=counts[pid])
        for pid, peak in peaks.items()
    ]
    return sorted(found, key=lambda one: (-(one.peak_bytes or 0), one.pid))


def _predicted(timeline: GpuTimeline) -> tuple[int | None, int | None, int | None]:
    for row in reversed(timeline.rows):
        if "predicted" in row.sizes:
            return row.sizes["predicted"], row.sizes.get("predicted_low"), row.sizes.get("predicted_high")
    return None, None, None


def _statuses(timeline: GpuTimeline) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in timeline.rows:
        status: Any = row.texts.get("status")
        if status and status != "ok":
            counts[status] = counts.get(status, 0) + 1
    return counts
