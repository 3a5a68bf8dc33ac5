"""Measured rows: a run, what was measured of it, and where the number was published."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from vramplan.errors import UsageError


class MeasuredKind(str, Enum):
    """Which of the quantities a row measured."""

    ALLOCATED = "allocated"  # torch.cuda.max_memory_allocated
    RESERVED = "reserved"  # torch.cuda.max_memory_reserved
    DEVICE_USED = "device_used"  # what the driver shows for the card or the process
    DEVICE_USED_ABOVE_BASELINE = "device_used_above_baseline"  # the same, less the idle card: the context is still in


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthRow:
    """One measurement.

    Args:
        id: of the row.
        run: keys of `estimate --jsonl`, not yet checked.
        kind: what was measured.
        measured_bytes: how much.
        source: who measured it.
        where: the file or page it is in.
    """

    id: str
    run: Mapping[str, Any]
    kind: MeasuredKind
    measured_bytes: int
    source: str
    where: str


def read_truth(path: Path) -> tuple[TruthRow, ...]:
    """The rows of a JSONL file.

    Raises:
        UsageError: the file cannot be read, a line is not a row, or two rows have one id.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    rows = tuple(parse_truth(text.splitlines(), str(path)))
    if not rows:
        raise UsageError(f"{path} has no rows")
    return rows


def parse_truth(lines: Iterable[str], where: str) -> Iterator[TruthRow]:
    """Rows from lines, blank ones left out.

    Raises:
        UsageError: a line is not a row, or its id was there before.
    """
    seen: set[str] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{where}, line {number}"
        row = _row(line, place)
        if row.id in seen:
            raise UsageError(f"{place}: the id {row.id!r} was there before", hint="give each row an id of its own")
        seen.add(row.id)
        yield row


def _row(line: str, place: str) -> TruthRow:
    try:
        top = json.loads(line)
    except json.JSONDecodeError as error:
        raise UsageError(f"{place}: not JSON: {error}") from error
    if not isinstance(top, dict):
        raise UsageError(f"{place}: not a JSON object")
    run, measured, source = (_field(top, key, dict, place) for key in ("run", "measured", "source"))
    kind = _field(measured, "kind", str, place)
    if kind not in [known.value for known in MeasuredKind]:
        kinds = ", ".join(known.value for known in MeasuredKind)
        raise UsageError(f"{place}: measured.kind must be one of {kinds}, not {kind!r}")
    num_bytes = _field(measured, "bytes", int, place)
    if isinstance(num_bytes, bool) or num_bytes <= 0:
        raise UsageError(f"{place}: measured.bytes must be a whole number of at least 1, not {num_bytes!r}")
    return TruthRow(
        id=_field(top, "id", str, place),
        run=run,
        kind=MeasuredKind(kind),
        measured_bytes=num_bytes,
        source=_field(source, "what", str, place),
        where=source.get("where", ""),
    )


def _field(table: Mapping[str, Any], key: str, kind: type, place: str) -> Any:
    value = table.get(key)
    if not isinstance(value, kind):
        words = {dict: "an object", str: "a text", int: "a whole number"}[kind]
        raise UsageError(f"{place}: {key} must be {words}, not {value!r}")
    return value
