"""`--explain`: every line of every phase, its formula with the numbers put in, and where the rule comes from."""

from __future__ import annotations

import textwrap

from vramplan.core.report import MemoryReport
from vramplan.output.words import component_words
from vramplan.units import format_bytes


def render_explanation(report: MemoryReport, *, units: str = "GB", width: int = 80) -> str:
    """Phases in their order, the largest lines first; `exact`, `modelled`, `measured` and `margin` say how it is
    known."""
    lines: list[str] = []
    for phase in report.phases:
        totals = ", ".join(
            f"{name} {format_bytes(num_bytes, units)}"
            for name, num_bytes in (
                ("allocated", phase.allocated_bytes),
                ("reserved", phase.reserved_bytes),
                ("device", phase.device_used_bytes),
            )
        )
        lines += ["", f"{phase.name} ({units}: {totals})"]
        for entry in sorted(phase.entries, key=lambda item: -item.num_bytes):
            if not entry.num_bytes:
                continue
            head = f"{format_bytes(entry.num_bytes, units)}  {component_words(entry.component)}: {entry.label}"
            exact = "" if units == "bytes" else f", {entry.num_bytes:,} B"
            lines += wrapped(f"{head}{exact} [{entry.basis.value}]", width, indent=2, hanging=4)
            lines += wrapped(f"= {entry.formula}", width, indent=6, hanging=8)
            lines += wrapped(f"source: {entry.source}", width, indent=6, hanging=8)
    return "\n".join([f"How each number comes about ({units})", *lines]) + "\n"


def wrapped(text: str, width: int, *, indent: int = 0, hanging: int = 0) -> list[str]:
    """Lines of at most `width` columns, broken at blanks and, where a word alone is longer, inside it."""
    return textwrap.wrap(
        text,
        max(width, 20),
        initial_indent=" " * indent,
        subsequent_indent=" " * hanging,
        break_on_hyphens=False,
    )
