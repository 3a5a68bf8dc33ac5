"""Reads what `vramplan report` is given: logs, and reports or records beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vramplan.errors import UsageError
from vramplan.monitor.log_reader import ReadLog, read_log
from vramplan.monitor.log_stats import GpuStats, log_stats
from vramplan.monitor.prediction import SCHEMA, prediction_of, read_report
from vramplan.output.log_report_series import Series, series_of
from vramplan.units import parse_bytes


@dataclass(slots=True, kw_only=True)
class Gathered:
    """Everything that was read."""

    logs: list[tuple[ReadLog, list[GpuStats]]] = field(default_factory=list)
    plans: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    def series(self) -> list[Series]:
        """The curves, ready to draw."""
        several = len(self.logs) > 1
        return [series_of(log, stats, several_logs=several) for log, gpus in self.logs for stats in gpus]


def part_of(path: Path) -> tuple[Path, int]:
    """The file that a part of a rotated log goes on from, and the part's number: `log.2.csv` is part 2 of `log.csv`."""
    stem, _, number = path.stem.rpartition(".")
    if stem and number.isdecimal():
        return path.with_name(f"{stem}{path.suffix}"), int(number)
    return path, 0


def gather(
    paths: Sequence[Path], query: str | None, estimate: Path | None, above: Sequence[str], capacity: str | None
) -> Gathered:
    """Read all files; a `.json` or `.jsonl` file is a report or holds records, everything else is a log.

    Raises:
        UsageError: a file is neither.
    """
    gathered = Gathered()
    thresholds = [parse_bytes(text) for text in above]
    capacity_bytes = None if capacity is None else parse_bytes(capacity)
    read: dict[Path, ReadLog] = {}
    for path in sorted(paths, key=lambda one: part_of(one)[1]):
        if path.suffix.lower() in (".json", ".jsonl"):
            gathered.plans.extend(_read_records(path))
            continue
        log = read_log(path, query=query)
        base, part = part_of(path)
        first = read.get(base) if part else None
        if first is not None and first.format == log.format == "native":
            first.rows += log.rows
            first.notes += [f"goes on in {path}", *log.notes]
            first.dropped += log.dropped
        else:
            read[path] = log
    for path in sorted(read, key=list(paths).index):
        gathered.logs.append((read[path], log_stats(read[path], thresholds, capacity_bytes)))
    if estimate is not None:
        document = read_report(estimate)
        predicted = prediction_of(document, str(estimate))
        gathered.plans.insert(0, (str(estimate), document))
        for _, gpus in gathered.logs:
            for stats in gpus:
                stats.predicted = (predicted.peak_bytes, predicted.low_bytes, predicted.high_bytes)
    return gathered


def _read_records(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Reports in a JSON file, or one a line; a record may hold its report under `report`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from None
    texts = [line for line in text.splitlines() if line.strip()] if path.suffix.lower() == ".jsonl" else [text]
    found: list[tuple[str, Mapping[str, Any]]] = []
    for number, one in enumerate(texts, start=1):
        name = str(path) if len(texts) == 1 else f"{path}:{number}"
        try:
            document = json.loads(one)
        except ValueError:
            raise UsageError(f"{name} is not JSON") from None
        if isinstance(document, dict) and isinstance(document.get("report"), dict):
            document = document["report"]
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise UsageError(f"{name} is neither a log nor a vramplan report")
        found.append((name, document))
    return found
