"""A log's curve made ready to draw: thinned so that a page stays small, and never by losing a peak."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vramplan.monitor.log_reader import ReadLog
from vramplan.monitor.log_stats import GpuStats

MOST_POINTS = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One curve.

    Args:
        name: for the legend.
        seconds: since the log's start; samples where the log has no times.
        used: bytes, None at a gap so that no line is drawn across it.
        has_times: False for a log without times.
        is_thinned: True where only each bucket's extremes were kept.
    """

    name: str
    seconds: list[float]
    used: list[int | None]
    has_times: bool
    is_thinned: bool


def series_of(log: ReadLog, stats: GpuStats, *, several_logs: bool) -> Series:
    """The curve of one GPU."""
    timeline = stats.timeline
    index = timeline.last_text("index")
    gpu = f"GPU {index}" if index else f"GPU {timeline.gpu[:12]}"
    source = log.source.replace("\\", "/").rsplit("/", 1)[-1]
    kept = thinned(stats.used, MOST_POINTS)
    starts = {gap.start_seconds for gap in stats.gaps}
    seconds: list[float] = []
    used: list[int | None] = []
    for before, at in zip([None, *kept[:-1]], kept, strict=True):
        crossed = before is not None and any(stats.seconds[one] in starts for one in range(before, at))
        if crossed and before is not None:
            seconds.append(stats.seconds[before])
            used.append(None)
        seconds.append(round(stats.seconds[at], 3))
        used.append(stats.used[at])
    return Series(
        name=f"{source} · {gpu}" if several_logs else gpu,
        seconds=seconds,
        used=used,
        has_times=timeline.start_time is not None,
        is_thinned=len(kept) < len(stats.used),
    )


def thinned(values: Sequence[int], most: int) -> list[int]:
    """Indices to keep: of each of `most / 2` buckets the lowest and the highest, and the two ends."""
    if len(values) <= most:
        return list(range(len(values)))
    buckets = most // 2
    kept = {0, len(values) - 1}
    for bucket in range(buckets):
        start, end = bucket * len(values) // buckets, (bucket + 1) * len(values) // buckets
        inside = range(start, end)
        kept.add(min(inside, key=values.__getitem__))
        kept.add(max(inside, key=values.__getitem__))
    return sorted(kept)
