"""Draws what `vramplan watch` sees; plain text in, so that it fits any terminal, with or without Unicode and colour."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vramplan.monitor.run_watch import GpuView, WatchView
from vramplan.units import format_bytes

if TYPE_CHECKING:
    from rich.text import Text

_MOST_PROCESSES = 6
_UNICODE_HISTORY = "▁▂▃▄▅▆▇█"
_ASCII_HISTORY = "_.-=+*%#"


def history_line(values: Sequence[int | None], capacity: int, width: int, *, unicode: bool) -> str:
    """The last `width` values as one character each, on the capacity's scale; a space where there was no reading."""
    levels = _UNICODE_HISTORY if unicode else _ASCII_HISTORY
    shown = list(values)[-width:]
    cells = (
        " " if value is None else levels[min(len(levels) - 1, value * len(levels) // max(1, capacity))]
        for value in shown
    )
    return "".join(cells).rjust(width)


def memory_bar(
    used: int, reserved: int, total: int, width: int, *, unicode: bool, mark: int | None = None
) -> list[tuple[str, str]]:
    """Used, free and reserved as (text, style) pieces of exactly `width` cells, with a mark at the predicted peak."""
    full, empty, kept, line = ("█", "░", "▒", "┃") if unicode else ("#", ".", "=", "|")
    num_used = round(used * width / max(1, total))
    num_used = max(num_used, 1) if used else 0
    num_kept = min(round(reserved * width / max(1, total)) or (1 if reserved else 0), width - num_used)
    cells = [(full, "green")] * num_used
    cells += [(empty, "dim")] * (width - num_used - num_kept) + [(kept, "dim")] * num_kept
    if used > 0.9 * total:
        cells = [(cell, "red" if style == "green" else style) for cell, style in cells]
    if mark is not None:
        cells[min(width - 1, mark * width // max(1, total))] = (line, "yellow")
    return cells[:width]


def frame(view: WatchView, width: int, units: str, *, unicode: bool, is_live: bool = False) -> Text:
    """The whole screen as rich text of at most `width` columns; `is_live` tells how to leave."""
    from rich.text import Text

    text = Text(no_wrap=True, overflow="crop")
    driver = f"driver {view.driver_version}" if view.driver_version else "driver unknown"
    pace = f", every {view.interval_seconds:g} s; q quits" if is_live else ""
    text.append(_fit(f"GPU memory in {units}, {driver}{pace}", width), "dim")
    text.append("\n")
    if view.silent_seconds:
        text.append(_fit(f"the driver has not answered for {view.silent_seconds:.0f} s", width) + "\n", "bold red")
    for gpu in view.gpus:
        text.append("\n")
        _draw_gpu(text, gpu, view, width, units, unicode)
    return text


def _draw_gpu(text: Text, gpu: GpuView, view: WatchView, width: int, units: str, unicode: bool) -> None:
    def size(num_bytes: int) -> str:
        return format_bytes(num_bytes, units)

    facts = []
    if gpu.gpu_percent is not None:
        facts.append(f"{gpu.gpu_percent} % busy")
    if gpu.temperature_celsius is not None:
        facts.append(f"{gpu.temperature_celsius} {'°C' if unicode else 'C'}")
    if gpu.power_milliwatts is not None:
        facts.append(f"{gpu.power_milliwatts / 1000:.0f} W")
    right = _fit(", ".join(facts), width)
    name = _fit(f"GPU {gpu.device.label}  {gpu.device.name}", max(0, width - len(right) - 2))
    text.append(name.ljust(max(0, width - len(right))), "bold")
    text.append(right + "\n")
    memory = None if gpu.sample is None else gpu.sample.memory
    if memory is None:
        status = "no reading yet" if gpu.sample is None else gpu.sample.status.replace("_", " ")
        text.append(_fit(f"  no memory reading: {status}", width) + "\n", "red")
        return
    mark = None if view.prediction is None else view.prediction.peak_bytes
    pieces = memory_bar(
        memory.used_bytes, memory.reserved_bytes or 0, memory.total_bytes, max(4, width - 4), unicode=unicode, mark=mark
    )
    text.append("  ")
    for piece, style in pieces:
        text.append(piece, style)
    text.append("\n")
    kept = "" if memory.reserved_bytes is None else f", {size(memory.reserved_bytes)} reserved"
    numbers = f"  {size(memory.used_bytes)} used{kept}, {size(memory.free_bytes)} free of {size(memory.total_bytes)}"
    text.append(_fit(numbers, width) + "\n")
    highest = f"highest {size(gpu.highest_bytes or 0)}"
    if view.prediction is not None:
        highest += f", predicted {size(view.prediction.peak_bytes)}"
    room = width - len(highest) - 6
    if room >= 8:
        text.append("  ")
        text.append(history_line(gpu.history, memory.total_bytes, room, unicode=unicode), "cyan")
        text.append("  ")
    else:
        text.append("  ")
    text.append(_fit(highest, width - 2) + "\n")
    if view.prediction is not None and view.prediction.low_bytes is not None and view.prediction.high_bytes is not None:
        band = f"  predicted band {size(view.prediction.low_bytes)} to {size(view.prediction.high_bytes)}"
        text.append(_fit(band, width) + "\n", "yellow")
    _draw_processes(text, gpu, width, units)


def _draw_processes(text: Text, gpu: GpuView, width: int, units: str) -> None:
    listed = sorted(gpu.processes or (), key=lambda one: -(one.used_bytes or 0))
    for process in listed[:_MOST_PROCESSES]:
        held = "unknown" if process.used_bytes is None else format_bytes(process.used_bytes, units)
        start = f"  {process.pid:>8}  "
        room = max(0, width - len(start) - len(held) - 2)
        text.append(_fit(f"{start}{_fit(process_name(process.pid), room).ljust(room)}  {held}", width) + "\n")
    if len(listed) > _MOST_PROCESSES:
        text.append(_fit(f"            and {len(listed) - _MOST_PROCESSES} more", width) + "\n", "dim")


def process_name(pid: int) -> str:
    """The command line, as far as it can be seen from here; control characters become spaces."""
    try:
        raw = (Path("/proc") / str(pid) / "cmdline").read_bytes()[:400]
    except OSError:
        return "(not visible from here)"
    words = raw.replace(b"\0", b" ").decode(errors="replace").strip()
    return "".join(letter if letter.isprintable() else " " for letter in words) or "(no command line)"


def _fit(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + ("~" if width else "")
