"""One side of a comparison: a report or a record, read to the same shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vramplan.errors import UsageError
from vramplan.records.record import SCHEMA as RECORD_SCHEMA
from vramplan.records.record import Record
from vramplan.records.record_json import parse_record

REPORT_SCHEMA = "vramplan.report/1"
TOTALS = ("allocated", "reserved", "device_used")
_UNDIVIDED = "measured: `weights` is what loading left and `activations` all the rest, as nothing tells them apart"
_WRITE_IT = "write one with `vramplan estimate … --json > FILE`, or with `vramplan measure`"


@dataclass(frozen=True, slots=True, kw_only=True)
class SidePhase:
    """One phase.

    Args:
        name: as reports call it.
        totals: bytes by TOTALS, None where nobody knows. A record's device_used is without what other processes held,
            where it says what they did.
        components: bytes by component, or None: a record has none.
    """

    name: str
    totals: Mapping[str, int | None]
    components: Mapping[str, int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A report or a record.

    Args:
        how: `estimate`, `simulate`, `measure` or `callback`.
        id: of the run, or the record's own; None where it has none.
        where: the file, and the line in it.
        gpu: the card's profile or name, or None.
        inputs: settings of the run that were given or resolved.
        versions: of the libraries.
        phases: in the order they happen.
        notes: what to know about its numbers.
    """

    how: str
    id: str | None
    where: str
    gpu: str | None
    inputs: Mapping[str, Any]
    versions: Mapping[str, Any]
    phases: tuple[SidePhase, ...]
    notes: tuple[str, ...] = ()

    def phase(self, name: str) -> SidePhase | None:
        """The phase of that name, or None."""
        return next((phase for phase in self.phases if phase.name == name), None)


def parse_side(value: object, where: str) -> Side:
    """A side from plain values.

    Raises:
        UsageError: it is neither a report nor a record, or a broken one.
    """
    schema = value.get("schema") if isinstance(value, Mapping) else None
    if schema == RECORD_SCHEMA:
        return side_of_record(parse_record(value, where), where)
    if schema == REPORT_SCHEMA and isinstance(value, Mapping):
        return _of_report(value, where)
    if isinstance(value, Mapping) and isinstance(value.get("error"), Mapping):
        raise UsageError(f"{where} is a run that got no answer: {value['error'].get('message')}")
    raise UsageError(f"{where} is neither a vramplan report nor a record", hint=_WRITE_IT)


def side_of_record(record: Record, where: str) -> Side:
    """A record; its device bytes are its own where it knows what the card held before."""
    notes = list(record.notes)
    if record.gpu.baseline_used_bytes is None and any(phase.device_used_bytes for phase in record.phases):
        notes.append("device bytes are of all processes: what the card held before is not known")
    if record.outcome != "done":
        notes.append(f"{record.outcome.replace('_', ' ')} in {record.stopped_in or 'no phase'}")
    phases = []
    for phase in record.phases:
        own = record.own_device_bytes(phase)
        totals = {
            "allocated": phase.allocated_bytes,
            "reserved": phase.reserved_bytes,
            "device_used": phase.device_used_bytes if own is None else own,
        }
        phases.append(SidePhase(name=phase.name, totals=totals, components=None))
    return Side(
        how=record.how,
        id=record.id,
        where=where,
        gpu=record.gpu.profile or record.gpu.name,
        inputs=record.run,
        versions={name: version for name, version in record.versions.items() if version is not None},
        phases=tuple(phases),
        notes=tuple(notes),
    )


def _of_report(value: Mapping[str, Any], where: str) -> Side:
    try:
        phases = tuple(
            SidePhase(
                name=str(phase["name"]),
                totals={name: _size(phase[f"{name}_bytes"]) for name in TOTALS},
                components={str(name): _size(size) for name, size in phase["components"].items()},
            )
            for phase in value["phases"]
        )
        return Side(
            how=str(value["how"]),
            id=None if value["id"] is None else str(value["id"]),
            where=where,
            gpu=value.get("gpu"),
            inputs=dict(value["inputs"]),
            versions=dict(value["versions"]),
            phases=phases,
            notes=(_UNDIVIDED,) if value["how"] == "measure" else (),
        )
    except KeyError as error:
        raise UsageError(f"{where} is a broken report: it has no {error.args[0]}", hint=_WRITE_IT) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{where} is a broken report: {error}", hint=_WRITE_IT) from error


def _size(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is not a number of bytes")
    return value
