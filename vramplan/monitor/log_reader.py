"""Reads any GPU log that people have: ours, nvidia-smi's in every variety, home-made ones, and damaged ones.

Nothing is dropped silently: each line that is not a row is counted under a reason, with the first line's number.
"""

from __future__ import annotations

import csv
import gc
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vramplan.errors import UsageError
from vramplan.monitor.log_columns import (
    IGNORED,
    TIME,
    BadCellError,
    Column,
    classify,
    epoch_seconds,
    is_absent,
    number,
)
from vramplan.monitor.log_rows import Row, fit_cells, read_row

BANNER = "before the header"
WRONG_CELLS = "the wrong number of cells: cut, or two writers in one file"
BAD_CELL = "a cell that is no value"
TORN = "the last line, cut before its end"
NO_VALUE = "nothing in it that this program reads"


@dataclass(slots=True, kw_only=True)
class Dropped:
    """Lines left out for one reason."""

    reason: str
    count: int
    first_line: int


@dataclass(slots=True, kw_only=True)
class ReadLog:
    """A log, read.

    Args:
        source: the file's name.
        format: native, nvidia-smi, processes (nvidia-smi's --query-compute-apps) or other.
        rows: in the file's order.
        dropped: lines left out, by reason.
        notes: what was mended or taken for granted.
    """

    source: str
    format: str
    rows: list[Row] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def num_dropped(self) -> int:
        """Lines left out in all."""
        return sum(one.count for one in self.dropped)


def decode(content: bytes) -> tuple[str, list[str]]:
    """Text without byte order mark, NULs and carriage returns, and what was done."""
    notes = []
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = content.decode("utf-16", errors="replace")
        notes.append("UTF-16, as PowerShell's > writes")
    else:
        text = content.decode("utf-8-sig", errors="replace")
    nuls = text.count("\0")
    if nuls:
        text = text.replace("\0", "")
        notes.append(f"{nuls:,} NUL bytes were taken out: the file was written by two programs, or after a crash")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text, notes


def _split(line: str, separator: str) -> list[str]:
    if '"' in line:
        try:
            return [cell.strip() for cell in next(csv.reader([line], delimiter=separator, skipinitialspace=True))]
        except (csv.Error, StopIteration):
            return [line]
    return [cell.strip() for cell in line.split(separator)]


def _looks_like_value(cell: str) -> bool:
    if is_absent(cell) and cell:
        return True
    try:
        number(cell)
    except BadCellError:
        try:
            epoch_seconds(cell)
        except BadCellError:
            return False
    return True


def header_columns(cells: Sequence[str]) -> list[Column] | None:
    """Columns, if these cells are a header: something known among them, and no value."""
    columns = [classify(cell) for cell in cells]
    known = [column for column in columns if column.meaning != IGNORED]
    if not known or any(_looks_like_value(cell) for cell in cells):
        return None
    if len(known) == 1 and len(cells) == 1 and known[0].meaning not in ("used", "process_used"):
        return None  # a word on a line of its own is no header
    return columns


def _separator(lines: Sequence[str]) -> str:
    counts = Counter({mark: sum(line.count(mark) for line in lines) for mark in ",;\t"})
    return counts.most_common(1)[0][0] if any(counts.values()) else ","


def read_log(path: Path, *, query: str | None = None) -> ReadLog:
    """Read one log.

    Args:
        path: the file.
        query: the fields of a log without a header, as they were given to `nvidia-smi --query-gpu`.

    Raises:
        UsageError: the file cannot be read, or nothing in it is a GPU log.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from None
    text, notes = decode(content)
    was_collecting = gc.isenabled()
    gc.disable()  # a million small objects and no cycle among them: the collector would double the time
    try:
        log = _Reader(str(path), text, notes, query).read()
    finally:
        if was_collecting:
            gc.enable()
    if not log.rows:
        raise UsageError(
            f"{path} holds no row of a GPU log",
            hint="a log without a header needs --query-gpu=…, the fields that it was written with",
        )
    return log


class _Reader:
    def __init__(self, source: str, text: str, notes: list[str], query: str | None) -> None:
        self._log = ReadLog(source=source, format="other", notes=notes)
        self._lines = text.split("\n")
        self._is_cut = bool(self._lines[-1].strip())
        if not self._lines[-1].strip():
            self._lines.pop()
        self._separator = _separator(self._lines[:200])
        self._counts: dict[str, Dropped] = {}
        self._columns: list[Column] | None = None
        self._num_headers = 0
        if query is not None:
            self._columns = [classify(name) for name in query.split(",")]

    def read(self) -> ReadLog:
        if self._columns is None and not self._has_header():
            self._columns = _guess(self._cells())
            if self._columns is not None:
                self._log.notes.append("without a header: columns told from what their cells look like")
        for at, line in enumerate(self._lines, start=1):
            if line.strip():
                self._take(line, at)
        if self._num_headers > 1:
            self._log.notes.append(f"{self._num_headers} headers: written to by {self._num_headers} runs")
        self._log.dropped = list(self._counts.values())
        self._log.format = self._format()
        return self._log

    def _has_header(self) -> bool:
        return any(header_columns(_split(line, self._separator)) for line in self._lines if line.strip())

    def _cells(self) -> list[list[str]]:
        return [_split(line, self._separator) for line in self._lines[:200] if line.strip()]

    def _take(self, line: str, at: int) -> None:
        cells = _split(line, self._separator)
        header = None if line[0].isdigit() else header_columns(cells)  # most rows begin with a time or an index
        if header is not None:
            self._columns = header
            self._num_headers += 1
            return
        if self._columns is None:
            self._drop(BANNER, at)
            return
        is_last = at == len(self._lines) and self._is_cut and bool(self._log.rows)
        fitted = fit_cells(cells, self._columns)
        if fitted is None or is_last:
            self._drop(TORN if is_last else WRONG_CELLS, at)
            return
        try:
            row = read_row(fitted, self._columns, at)
        except BadCellError as error:
            self._drop(BAD_CELL, at, f"{error}"[:40])
            return
        if not (row.sizes or row.numbers or row.texts or row.time is not None):
            self._drop(NO_VALUE, at)
            return
        self._log.rows.append(row)

    def _drop(self, reason: str, at: int, example: str | None = None) -> None:
        found = self._counts.get(reason)
        if found is not None:
            found.count += 1
            return
        shown = f"{reason} (such as {example!r})" if example else reason
        self._counts[reason] = Dropped(reason=shown, count=1, first_line=at)

    def _format(self) -> str:
        first = next((line for line in self._lines if line.startswith("time_utc,elapsed_seconds,tick,")), None)
        if first is not None:
            return "native"
        meanings = {column.meaning for column in self._columns or ()}
        if "pid" in meanings:
            return "processes"
        smi = any(re.search(r"\b(memory|utilization|power|temperature)\.[a-z]", line) for line in self._lines[:200])
        return "nvidia-smi" if smi else "other"


_MIB = re.compile(r"^\d+ MiB$")


def _guess(rows: Sequence[Sequence[str]]) -> list[Column] | None:
    """Columns of a log without a header, only where its cells leave no choice."""
    if not rows:
        return None
    width = Counter(len(row) for row in rows).most_common(1)[0][0]
    rows = [row for row in rows if len(row) == width]
    columns = [_guess_one([row[at] for row in rows]) for at in range(width)]
    sizes = [at for at, column in enumerate(columns) if column.meaning == "size"]
    meanings: dict[int, str] = {}
    if len(sizes) == 1:
        meanings = {sizes[0]: "used"}
    elif len(sizes) == 2:
        values = {at: [number(row[at])[0] for row in rows if _MIB.match(row[at])] for at in sizes}
        constant = [at for at in sizes if len(set(values[at])) == 1 and values[at][0] >= max(map(max, values.values()))]
        if len(constant) == 1:
            meanings = {at: "total" if at == constant[0] else "used" for at in sizes}
    if "used" not in meanings.values():
        return None
    return [
        Column(meaning=meanings.get(at, IGNORED), unit="MiB") if column.meaning == "size" else column
        for at, column in enumerate(columns)
    ]


def _guess_one(cells: Sequence[str]) -> Column:
    cells = [cell for cell in cells if not is_absent(cell)]
    if not cells:
        return Column(meaning=IGNORED)
    if all(_MIB.match(cell) for cell in cells):
        return Column(meaning="size")
    if all(cell.startswith(("GPU-", "MIG-")) for cell in cells):
        return Column(meaning="uuid")
    if all(re.match(r"^[0-9A-Fa-f]{8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.\d$", cell) for cell in cells):
        return Column(meaning="bus")
    try:
        for cell in cells:
            epoch_seconds(cell)
    except BadCellError:
        if all(cell.startswith(("NVIDIA", "Tesla", "GeForce", "Quadro")) for cell in cells):
            return Column(meaning="name")
        return Column(meaning=IGNORED)
    return Column(meaning=TIME)
