"""A log's rows as one timeline per GPU: seconds since the first sample, clocks mended, gaps found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from vramplan.monitor.log_reader import ReadLog
from vramplan.monitor.log_rows import Row

_CLOCK_SET_SECONDS = 1.0


@dataclass(slots=True, kw_only=True)
class Gap:
    """No sample from `start_seconds` on, for `num_seconds`."""

    start_seconds: float
    num_seconds: float


@dataclass(slots=True, kw_only=True)
class GpuTimeline:
    """One GPU of one log.

    Args:
        gpu: its UUID, else bus id, else index.
        rows: those of this GPU, in the order of time.
        seconds: of each row, since the log's first; the rows' numbers where the log has no times.
        start_time: seconds since 1970 of second 0, None without times.
        has_zone: False where that is a local time of an unknown zone.
        interval_seconds: the median step, None for fewer than two rows or without times.
        gaps: steps much longer than that.
        notes: what was mended.
    """

    gpu: str
    rows: list[Row]
    seconds: list[float]
    start_time: float | None
    has_zone: bool
    interval_seconds: float | None
    gaps: list[Gap] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def last_text(self, key: str) -> str | None:
        """The last text that a row has under this key."""
        return next((row.texts[key] for row in reversed(self.rows) if row.texts.get(key)), None)


def timelines(log: ReadLog) -> list[GpuTimeline]:
    """One timeline a GPU, in the order in which they come. A list of processes has several rows a GPU and moment."""
    groups: dict[str, list[Row]] = {}
    names: dict[str, str] = {}
    for row in log.rows:
        if row.numbers.get("tick") is not None and not row.sizes and row.gpu == "0" and not row.texts.get("index"):
            continue  # our own note in a log that stayed empty: why, but of no GPU
        key = names.setdefault(row.texts["index"], row.gpu) if "index" in row.texts else row.gpu
        groups.setdefault(key, []).append(row)
    return [_timeline(gpu, rows) for gpu, rows in groups.items()]


def _timeline(gpu: str, rows: list[Row]) -> GpuTimeline:
    notes: list[str] = []
    timed = [row for row in rows if row.time is not None]
    if not timed:
        return GpuTimeline(
            gpu=gpu,
            rows=rows,
            seconds=[float(at) for at in range(len(rows))],
            start_time=None,
            has_zone=False,
            interval_seconds=None,
            notes=["the log has no times: the curve is over samples"],
        )
    if len(timed) < len(rows):
        notes.append(f"{len(rows) - len(timed)} rows without a time were left out of the curve")
    if all("elapsed" in row.numbers for row in timed):
        seconds = _from_elapsed(timed, notes)
    else:
        timed, seconds = _from_wall_clock(timed, notes)
    steps = [later - earlier for earlier, later in pairwise(seconds)]
    positive = [step for step in steps if step > 0]
    interval = median(positive) if positive else None
    gaps = []
    if interval is not None:
        longest = max(2.5 * interval, interval + 1.0)
        gaps = [
            Gap(start_seconds=at, num_seconds=step) for at, step in zip(seconds, steps, strict=False) if step > longest
        ]
    return GpuTimeline(
        gpu=gpu,
        rows=timed,
        seconds=seconds,
        start_time=timed[0].time,
        has_zone=timed[0].has_zone,
        interval_seconds=interval,
        gaps=gaps,
        notes=notes,
    )


def _from_elapsed(rows: Sequence[Row], notes: list[str]) -> list[float]:
    """Our own monotonic seconds; where a file was resumed they start again, and the wall clock bridges the pause."""
    seconds: list[float] = []
    offset, resumed = -rows[0].numbers["elapsed"], 0
    for before, row in zip([None, *rows[:-1]], rows, strict=True):
        elapsed = row.numbers["elapsed"]
        if before is not None and elapsed < before.numbers["elapsed"]:
            resumed += 1
            pause = (row.time or 0.0) - (before.time or 0.0)
            offset = seconds[-1] + max(0.0, pause) - elapsed
        seconds.append(offset + elapsed)
    if resumed:
        notes.append(f"resumed {resumed} times: the pauses count as gaps")
    return seconds


def _from_wall_clock(rows: list[Row], notes: list[str]) -> tuple[list[Row], list[float]]:
    times = [row.time or 0.0 for row in rows]
    back = sum(later < earlier for earlier, later in pairwise(times))
    if back > max(2, 0.02 * len(times)):
        rows = sorted(rows, key=lambda row: row.time or 0.0)
        notes.append(f"times go back {back} times, as with two writers: the rows were put in order")
        first = rows[0].time or 0.0
        return rows, [(row.time or 0.0) - first for row in rows]
    steps = [later - earlier for earlier, later in pairwise(times)]
    usual = median([step for step in steps if step > 0] or [0.0])
    seconds, num_set = [0.0], 0
    for step in steps:
        if step < -_CLOCK_SET_SECONDS:
            num_set += 1
            step = usual
        seconds.append(seconds[-1] + max(0.0, step))
    if num_set:
        notes.append(f"the clock was set back {num_set} times: time goes on from there")
    return rows, seconds
