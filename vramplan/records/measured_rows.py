"""Records as measured rows: what a run's peaks were, beside the runs that others published."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vramplan.records.record import SCHEMA, Record, RecordPhase
from vramplan.records.store import read_records
from vramplan.records.truth import MeasuredKind, TruthRow, read_truth

UNPREDICTED_PHASES = frozenset({"evaluate"})
"""Phases of a callback's record that no prediction has."""

_NAMED = ("torch", "transformers", "peft", "bitsandbytes")
"""Versions that a prediction is made for. trl and accelerate are not among them: to name one of those is to say that
its trainer runs, and that is for the run's own `stack` to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a file or a folder holds.

    Args:
        rows: one for each run and quantity.
        skipped: sentences on records without a measured peak.
    """

    rows: tuple[TruthRow, ...]
    skipped: tuple[str, ...] = ()


def read_measured(path: Path) -> Measured:
    """Rows of a truth file, or of the records of a file or of a folder.

    Raises:
        UsageError: a file cannot be read, or a line is neither.
    """
    if not path.is_dir() and not _begins_with_record(path):
        return Measured(rows=read_truth(path))
    records = {record.hash: record for record in read_records(path)}  # the same record in two files is one
    usable = {key: record for key, record in records.items() if why_unusable(record) is None}
    return Measured(
        rows=tuple(row for record in usable.values() for row in rows_of(record, str(path))),
        skipped=tuple(f"{record.id}: {why_unusable(record)}" for key, record in records.items() if key not in usable),
    )


def why_unusable(record: Record) -> str | None:
    """Why a record has no peak to hold a prediction against, or None where it has."""
    if record.outcome != "done":
        return f"its run did not end ({record.outcome.replace('_', ' ')})"
    if record.device != "cuda":
        return "it was not measured on a GPU"
    if _peak(record, MeasuredKind.ALLOCATED) is None:
        return "no phase of it was measured"
    if record.allocator.cublas_workspace_config is not None:
        return "its cuBLAS workspace was set, and predictions take the default"
    return None


def rows_of(record: Record, where: str) -> Iterator[TruthRow]:
    """The peaks of a record; allocated alone where the allocator was not set as predictions take it."""
    kinds = [MeasuredKind.ALLOCATED]
    if not record.allocator.conf and record.allocator.backend == "native":
        kinds += [MeasuredKind.RESERVED, MeasuredKind.DEVICE_USED_ABOVE_BASELINE]
    for kind in kinds:
        num_bytes = _peak(record, kind)
        if num_bytes:
            yield TruthRow(
                id=f"{record.id} {kind.value}",
                run=run_of(record),
                kind=kind,
                measured_bytes=num_bytes,
                source=f"vramplan {record.how}, {record.gpu.name}",
                where=where,
            )


def run_of(record: Record) -> dict[str, Any]:
    """The run as it would be asked for now: on its card, with its versions."""
    run = dict(record.run)
    if record.gpu.profile is not None and "gpu" not in run and "gpu_mem" not in run:
        run["gpu"] = record.gpu.profile
    measured = {name: version for name in _NAMED if (version := record.versions.get(name)) is not None}
    run["stack"] = measured | dict(run.get("stack") or {})
    return run


def predicted_phases(record: Record) -> tuple[RecordPhase, ...]:
    """The phases that a prediction has too."""
    return tuple(phase for phase in record.phases if phase.name not in UNPREDICTED_PHASES)


def _peak(record: Record, kind: MeasuredKind) -> int | None:
    sizes: dict[MeasuredKind, Callable[[RecordPhase], int | None]] = {
        MeasuredKind.ALLOCATED: lambda phase: phase.allocated_bytes,
        MeasuredKind.RESERVED: lambda phase: phase.reserved_bytes,
        MeasuredKind.DEVICE_USED_ABOVE_BASELINE: record.own_device_bytes,
    }
    return max((size for phase in predicted_phases(record) if (size := sizes[kind](phase)) is not None), default=None)


def _begins_with_record(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            if path.suffix == ".json":
                value = json.load(file)
            else:
                value = json.loads(next((line for line in file if line.strip()), "null"))
    except (OSError, ValueError, RecursionError):
        return False  # reading it as truth says what is wrong with it
    return isinstance(value, dict) and value.get("schema") == SCHEMA
