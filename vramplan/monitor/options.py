"""What a user may ask of `vramplan log`, checked once, before anything is opened or started."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vramplan.errors import UsageError
from vramplan.monitor.flags import checked_units
from vramplan.monitor.smi_fields import Field
from vramplan.monitor.smi_format import DEFAULT_QUERY, SmiFormat, parse_query

NATIVE = "native"
SMI = "nvidia-smi"
SHORTEST_INTERVAL_SECONDS = 0.01
PROCESS_SECONDS = 5.0
WATCHED_PROCESS_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatChoice:
    """Which rows: our own, or nvidia-smi's for some fields."""

    name: str
    fields: tuple[Field, ...] = ()
    with_header: bool = True
    with_units: bool = True

    def smi(self) -> SmiFormat:
        """A fresh nvidia-smi format."""
        return SmiFormat(self.fields, with_header=self.with_header, with_units=self.with_units)


def parse_format(text: str | None, query: str | None) -> FormatChoice:
    """`native`, or `nvidia-smi` with `noheader` and `nounits` as nvidia-smi's own `--format=csv,…` takes them.

    Raises:
        UsageError: an unknown word, or a query that our own format does not take.
    """
    words = [word.strip() for word in (text or (SMI if query else NATIVE)).split(",") if word.strip()]
    names = [word for word in words if word in (NATIVE, SMI, "csv")]
    unknown = [word for word in words if word not in (NATIVE, SMI, "csv", "noheader", "nounits")]
    if unknown or len(names) > 1:
        raise UsageError(
            f"--format {text} is not known",
            hint=f"use {NATIVE}, {SMI} or csv; the last two take ,noheader,nounits",
        )
    name = SMI if not names or names[0] == "csv" else names[0]
    if name == NATIVE:
        if query or len(words) > 1:
            raise UsageError("--query-gpu, noheader and nounits belong to --format nvidia-smi")
        return FormatChoice(name=NATIVE)
    return FormatChoice(
        name=SMI,
        fields=parse_query(query or DEFAULT_QUERY),
        with_header="noheader" not in words,
        with_units="nounits" not in words,
    )


def parse_interval(seconds: float | None, loop_ms: float | None) -> float:
    """Seconds between ticks, 5 by default.

    Raises:
        UsageError: both are given, or it is too short.
    """
    if seconds is not None and loop_ms is not None:
        raise UsageError("-i and -lms both say the interval", hint="give one of them")
    interval = loop_ms / 1000 if loop_ms is not None else 5.0 if seconds is None else seconds
    if not SHORTEST_INTERVAL_SECONDS <= interval <= 86400:
        raise UsageError(f"an interval of {interval:g} s is not possible", hint="use 0.01 to 86400 s")
    return interval


_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(s|m|h|d|)\s*$")


def parse_duration(text: str | None) -> float | None:
    """Seconds of `90`, `90s`, `15m`, `2h` or `1d`.

    Raises:
        UsageError: it is none of these.
    """
    if text is None:
        return None
    match = _DURATION.match(text)
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"{text!r} is not a duration", hint="write 90, 90s, 15m, 2h or 1d")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """A whole `vramplan log`, checked."""

    output: Path | None
    format: FormatChoice
    interval_seconds: float
    process_seconds: float | None
    selectors: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    pid: int | None = None
    duration_seconds: float | None = None
    num_ticks: int | None = None
    fail_above_bytes: int | None = None
    kill_above_bytes: int | None = None
    estimate: Path | None = None
    rotate_bytes: int | None = None
    fsync_ticks: int = 0
    force: bool = False
    tee: bool = False
    quiet: bool = False
    units: str = "GB"
    prometheus: str | None = None

    def __post_init__(self) -> None:
        """What does not go together is said before anything starts."""
        if self.kill_above_bytes is not None and not self.command:
            raise UsageError("--kill-above needs a command to end", hint="write it after --")
        if self.command and self.pid is not None:
            raise UsageError("--pid and a command both say what to watch", hint="give one of them")
        if self.command and self.output is None and self.tee:
            raise UsageError("--tee would mix rows into the command's own output", hint="give -o FILE without --tee")
        if self.rotate_bytes is not None and self.output is None:
            raise UsageError("--rotate-size needs -o FILE")
        if self.fsync_ticks < 0 or (self.num_ticks is not None and self.num_ticks < 1):
            raise UsageError("--count counts from one, and --fsync from zero")
        checked_units(self.units)


def process_pace(text: float | None, *, watched: bool, interval_seconds: float) -> float | None:
    """Seconds between process lists: 5, or 2 where a run is watched, and never faster than the ticks; 0 for never.

    Raises:
        UsageError: less than zero.
    """
    if text is None:
        return max(interval_seconds, WATCHED_PROCESS_SECONDS if watched else PROCESS_SECONDS)
    if text < 0:
        raise UsageError("--process-interval is not below zero", hint="0 never asks for the process list")
    return max(interval_seconds, text) if text else None


def default_log_path(command: Sequence[str], host: str, pid: int) -> Path:
    """Where a command's log goes without -o: host and pid in the name, so that two hosts on one share never meet."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(command[0]).name)[:40] or "run"
    return Path(f"memory_log-{stem}-{host}-{pid}.csv")
