"""One line on a terminal that is rewritten in place while a file is logged to: no library, no colour."""

from __future__ import annotations

import os
from typing import TextIO

from vramplan.monitor.prediction import Prediction
from vramplan.monitor.sample import Tick
from vramplan.monitor.summary import RunSummary
from vramplan.units import format_bytes

_BAR = 20


def bar(used_bytes: int, capacity_bytes: int, prediction: Prediction | None, width: int = _BAR) -> str:
    """`[#######---|----]`: what is used of the capacity, with a `|` where the peak is expected."""

    def place(num_bytes: int) -> int:
        return min(width - 1, num_bytes * width // max(1, capacity_bytes))

    num_full = min(width, -(-used_bytes * width // max(1, capacity_bytes)))
    cells = ["#"] * num_full + ["-"] * (width - num_full)
    if prediction is not None:
        cells[place(prediction.peak_bytes)] = "|"
    return "[" + "".join(cells) + "]"


class StatusLine:
    """Shows the fullest GPU, its peak so far and how that stands to the prediction."""

    def __init__(self, stream: TextIO, prediction: Prediction | None) -> None:
        self._stream = stream
        self._prediction = prediction
        self._is_shown = False

    def show(self, tick: Tick, summary: RunSummary) -> None:
        """Replace the line."""
        known = [sample for sample in tick.samples if sample.memory is not None]
        text = f"tick {tick.number}: no memory reading"
        highest = summary.highest
        if known and highest is not None:
            sample = max(known, key=lambda s: s.memory.used_bytes if s.memory else 0)
            if sample.memory is not None:
                used, total = sample.memory.used_bytes, sample.memory.total_bytes
                peak = format_bytes(highest.peak_used_bytes or 0)
                text = f"GPU {sample.device.label} {bar(used, total, self._prediction)} {format_bytes(used)}"
                text += f" of {format_bytes(total)} GB, peak {peak}"
                if self._prediction is not None:
                    text += f", predicted {format_bytes(self._prediction.peak_bytes)}"
        self._put("\r\x1b[K" + text[: _columns() - 1])
        self._is_shown = True

    def clear(self) -> None:
        """Take the line away before another is printed."""
        if self._is_shown:
            self._put("\r\x1b[K")
            self._is_shown = False

    def _put(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            return  # the terminal has gone: the log goes on


def _columns() -> int:
    try:
        return max(20, os.get_terminal_size(2).columns or 80)
    except OSError:
        return 80
