"""`vramplan doctor` as text and JSON (`vramplan.doctor/1`)."""

from __future__ import annotations

from typing import Any

from vramplan.monitor.health import Check, Diagnosis
from vramplan.output.explain import wrapped

SCHEMA = "vramplan.doctor/1"
_COLOURS = {"ok": "32", "warn": "33", "fail": "31"}
_WHAT_COLUMNS = 13
_INDENT = 6 + _WHAT_COLUMNS + 1


def diagnosis_to_dict(found: Diagnosis) -> dict[str, Any]:
    """Plain values; the keys never depend on the machine."""
    cuda = found.driver.cuda
    return {
        "schema": SCHEMA,
        "can_measure": found.can_measure,
        "works": list(found.works),
        "driver": {"version": found.driver.version, "cuda": None if cuda is None else f"{cuda[0]}.{cuda[1]}"},
        "gpus": [
            {"index": gpu.label, "name": gpu.name or None, "total_bytes": gpu.total_bytes, "used_bytes": gpu.used_bytes}
            for gpu in found.driver.gpus
        ],
        "versions": dict(found.versions),
        "checks": [
            {"id": one.id, "state": one.state, "what": one.what, "detail": one.detail, "fix": one.fix}
            for one in found.checks
        ],
    }


def render_diagnosis(found: Diagnosis, *, width: int = 80, colour: bool = False) -> str:
    """A line for each check, its fix below it, and at the end what works."""
    lines = [line for check in found.checks for line in _lines(check, width, colour=colour)]
    commands = ", ".join(found.works)
    ending = (
        f"Measuring would work, and so would {commands.removesuffix(', measure')}."
        if found.can_measure
        else f"Measuring would not work here. What works: {commands}."
    )
    return "\n".join([*lines, "", *wrapped(ending, width)]) + "\n"


def _lines(check: Check, width: int, *, colour: bool) -> list[str]:
    head = f"{check.state:<5} {check.what:<{_WHAT_COLUMNS}} "
    first, *rest = wrapped(f"{head}{check.detail}", width, hanging=_INDENT)
    if colour:
        first = f"\x1b[{_COLOURS[check.state]}m{check.state}\x1b[0m{first[len(check.state) :]}"
    fix = [] if check.fix is None else wrapped(f"fix: {check.fix}", width, indent=_INDENT, hanging=_INDENT + 5)
    return [first, *rest, *fix]
