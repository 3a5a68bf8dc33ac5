"""One row of a log, read: bytes, seconds, None for what is not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from vramplan.monitor.log_columns import (
    IGNORED,
    SIZES,
    TIME,
    BadCellError,
    Column,
    epoch_seconds,
    is_absent,
    number,
    size_bytes,
)


@dataclass(slots=True, kw_only=True)
class Row:
    """One GPU at one moment, or one process of one GPU.

    Args:
        line: its number in the file, from 1.
        time: seconds since 1970, None where the log has no times.
        sizes: bytes by meaning (`used`, `total`, …), only those that the row has.
        numbers: the same for numbers.
        texts: the same for texts.
        has_zone: False where the time is local and its zone unknown.
    """

    line: int
    time: float | None = None
    has_zone: bool = True
    sizes: dict[str, int] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    @property
    def gpu(self) -> str:
        """The best name that the row has for its GPU."""
        for key in ("uuid", "bus", "index"):
            if self.texts.get(key):
                return self.texts[key]
        return "0"

    def processes(self) -> dict[int, int | None]:
        """Bytes by pid, None where the driver does not say; empty where this row lists none."""
        found: dict[int, int | None] = {}
        for part in self.texts.get("processes", "").split():
            pid, _, size = part.partition("=")
            if pid.isdigit() and (size.isdigit() or not size):
                found[int(pid)] = int(size) if size else None
        if "pid" in self.numbers:
            found[int(self.numbers["pid"])] = self.sizes.get("process_used")
        return found


def fit_cells(cells: Sequence[str], columns: Sequence[Column]) -> list[str] | None:
    """The cells, one a column; None where they cannot be. nvidia-smi quotes nothing, so a name may hold commas."""
    if len(cells) == len(columns):
        return list(cells)
    names = [at for at, column in enumerate(columns) if column.meaning in ("name", "process_name")]
    extra = len(cells) - len(columns)
    if extra < 0 or len(names) != 1:
        return None
    at = names[0]
    return [*cells[:at], ", ".join(cells[at : at + extra + 1]), *cells[at + extra + 1 :]]


def read_row(cells: Sequence[str], columns: Sequence[Column], line: int) -> Row:
    """One row.

    Raises:
        BadCellError: a cell is damaged.
    """
    row = Row(line=line)
    for cell, column in zip(cells, columns, strict=True):
        meaning = column.meaning
        if meaning == IGNORED or is_absent(cell):
            if cell.startswith("[") and "lost" in cell.lower():
                row.texts["status"] = "lost"
            continue
        if meaning == TIME:
            row.time, row.has_zone = epoch_seconds(cell)
        elif meaning in SIZES:
            row.sizes[meaning] = size_bytes(cell, column.unit)
        elif meaning in ("index", "uuid", "bus", "name", "process_name", "status", "processes"):
            row.texts[meaning] = cell
        else:
            row.numbers[meaning] = _scaled(cell, column)
    return row


def _scaled(cell: str, column: Column) -> float:
    value, own = number(cell)
    unit = own or column.unit
    if column.meaning == "gpu_ratio" and unit != "ratio":
        value /= 100
    if own and column.meaning in ("gpu_ratio", "temperature", "power") and own not in ("%", "W", "C", "°C", "mW"):
        raise BadCellError(cell)
    return value / 1000 if unit == "mW" else value
