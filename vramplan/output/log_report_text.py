"""A log report for reading: a table for a terminal, Markdown, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from vramplan.units import format_bytes

COLUMNS = ("log", "GPU", "peak", "mean", "p95", "capacity", "left", "samples", "gaps", "lasts", "growth/h")
CSV_COLUMNS = (
    "log", "gpu", "index", "name", "num_samples", "num_gaps", "start_time", "duration_seconds", "interval_seconds",
    "capacity_bytes", "peak_used_bytes", "peak_time", "margin_bytes", "mean_used_bytes", "p95_used_bytes",
    "min_used_bytes", "peak_watched_bytes", "growth_bytes_per_hour", "looks_like_leak",
)  # fmt: skip


def duration_text(seconds: float | None) -> str:
    """`48 s`, `12.5 min`, `3.2 h`."""
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _size(num_bytes: int | None, units: str) -> str:
    return "–" if num_bytes is None else format_bytes(num_bytes, units)


def _row(gpu: Mapping[str, Any], number: int, units: str) -> list[str]:
    growth = gpu["growth_bytes_per_hour"]
    shown = "–" if growth is None else ("+" if growth >= 0 else "−") + _size(abs(growth), units)
    return [
        str(number),
        gpu["index"] or gpu["gpu"][:12],
        *(_size(gpu[f"{name}_used_bytes"], units) for name in ("peak", "mean", "p95")),
        _size(gpu["capacity_bytes"], units),
        _size(gpu["margin_bytes"], units),
        f"{gpu['num_samples']:,}",
        str(gpu["num_gaps"]),
        duration_text(gpu["duration_seconds"]),
        shown + ("  leak?" if gpu["looks_like_leak"] else ""),
    ]


def short_name(source: str) -> str:
    """A file's name without its folders."""
    return source.replace("\\", "/").rsplit("/", 1)[-1]


def gpu_name(document: Mapping[str, Any], gpu: Mapping[str, Any]) -> str:
    """`GPU 0`, and the log's name before it where there are several logs."""
    name = f"GPU {gpu['index'] or gpu['gpu'][:12]}"
    return f"{short_name(gpu['log'])}, {name}" if len(document["logs"]) > 1 else name


def _gpu_remarks(gpu: Mapping[str, Any], units: str) -> list[str]:
    def size(num_bytes: int | None) -> str:
        return f"{_size(num_bytes, units)} {units}"

    found = []
    predicted = gpu["predicted"]
    if predicted["error_ratio"] is not None:
        side = "above" if predicted["error_ratio"] >= 0 else "below"
        off = f"{abs(predicted['error_ratio']):.1%} {side} the measured peak"
        found.append(f"predicted {size(predicted['peak_bytes'])}, {off}")
    if gpu["looks_like_leak"]:
        found.append(f"the lower edge rises by {size(gpu['growth_bytes_per_hour'])} an hour: this looks like a leak")
    if gpu["peak_used_bytes"] is None:
        found.append("no row says how much memory was used")
    found.extend(f"{count} samples without a reading ({why})" for why, count in sorted(gpu["bad_samples"].items()))
    for above in gpu["above"]:
        if above["samples"]:
            lasting = "" if above["seconds"] is None else f" for {duration_text(above['seconds'])}"
            found.append(f"above {size(above['threshold_bytes'])}{lasting} ({above['samples']:,} samples)")
    for process in gpu["processes"][:5]:
        called = f" ({process['name']})" if process["name"] else ""
        if process["peak_bytes"] is not None:
            found.append(f"process {process['pid']}{called} held {size(process['peak_bytes'])} at most")
    unknown = [str(process["pid"]) for process in gpu["processes"] if process["peak_bytes"] is None]
    if unknown:
        found.append(f"the driver does not say what these processes held: {', '.join(unknown[:10])}")
    return [*found, *gpu["notes"]]


def remarks(document: Mapping[str, Any], units: str) -> list[str]:
    """What a table cannot hold, one sentence each: predictions, drops, leaks, notes."""
    found = [f"{gpu_name(document, gpu)}: {remark}" for gpu in document["gpus"] for remark in _gpu_remarks(gpu, units)]
    for log in document["logs"]:
        name = short_name(log["source"])
        for dropped in log["dropped_rows"]:
            lines = "1 line" if dropped["count"] == 1 else f"{dropped['count']:,} lines"
            found.append(f"{name}: {lines} dropped: {dropped['reason']} (the first is line {dropped['first_line']})")
        found.extend(f"{name}: {note}" for note in log["notes"])
    return found


def phase_lines(document: Mapping[str, Any], units: str, most: int = 12) -> list[str]:
    """The phases found in each curve that has several, as short lines."""
    found = []
    for gpu in document["gpus"]:
        phases = gpu["phases"] if len(gpu["phases"]) > 1 else []
        for phase in phases[:most]:
            found.append(
                f"{gpu_name(document, gpu)}: {phase['kind']} "
                f"{duration_text(phase['start_seconds'])} to {duration_text(phase['end_seconds'])}, "
                f"mean {_size(phase['mean_bytes'], units)}, peak {_size(phase['peak_bytes'], units)}"
            )
        if len(phases) > most:
            found.append(f"{gpu_name(document, gpu)}: and {len(phases) - most} more (--json has all)")
    return found


def table_rows(document: Mapping[str, Any], units: str) -> list[list[str]]:
    """The table's cells under `COLUMNS`; a log is given by its number, from 1."""
    numbers = {log["source"]: number for number, log in enumerate(document["logs"], start=1)}
    return [_row(gpu, numbers[gpu["log"]], units) for gpu in document["gpus"]]


def render_csv(document: Mapping[str, Any]) -> str:
    """One line a GPU, bytes and seconds."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(document["gpus"])
    return out.getvalue()


def render_markdown(document: Mapping[str, Any], units: str) -> str:
    """A table and the remarks."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rows = [line(cells) for cells in table_rows(document, units)]
    parts = [f"GPU memory over time, in {units}", "", line(COLUMNS), line(["---"] * len(COLUMNS)), *rows]
    parts += ["", *(f"{number}. {log['source']}" for number, log in enumerate(document["logs"], start=1))]
    notes = remarks(document, units)
    if notes:
        parts += ["", *(f"- {note}" for note in notes)]
    return "\n".join(parts) + "\n"


def print_table(document: Mapping[str, Any], units: str, stream: TextIO) -> None:
    """The same on a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=stream, highlight=False)
    table = Table(title=f"GPU memory over time, in {units}", title_justify="left", box=None, pad_edge=False)
    shown = [at for at in range(len(COLUMNS)) if COLUMNS[at] != "log" or len(document["logs"]) > 1]
    for at in shown:
        table.add_column(COLUMNS[at], justify="left" if at < 2 else "right", no_wrap=True)
    for cells in table_rows(document, units):
        table.add_row(*(Text(cells[at]) for at in shown))
    console.print(table)
    if len(document["logs"]) > 1:
        for number, log in enumerate(document["logs"], start=1):
            console.print(Text(f"  {number}  {log['source']}"), soft_wrap=True)
    for heading, lines in (("phases", phase_lines(document, units)), ("notes", remarks(document, units))):
        if lines:
            console.print(f"\n{heading}")
            for text in lines:
                console.print(Text("  " + text), soft_wrap=True)
