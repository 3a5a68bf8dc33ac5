"""A report as CSV: one row per phase and component, bytes everywhere."""

from __future__ import annotations

import csv
import io

from vramplan.core.report import Component, MemoryReport

COLUMNS = (
    "id",
    "how",
    "phase",
    "is_peak",
    "component",
    "component_bytes",
    "allocated_bytes",
    "reserved_bytes",
    "device_used_bytes",
)


def render_csv(report: MemoryReport) -> str:
    """The header and the rows; the three totals are the phase's and repeat on each of its rows."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for phase in report.phases:
        for component in Component:
            writer.writerow(
                (
                    report.id or "",
                    report.how,
                    phase.name,
                    str(phase.name == report.peak.phase).lower(),
                    component.value,
                    phase.component_bytes(component),
                    phase.allocated_bytes,
                    phase.reserved_bytes,
                    phase.device_used_bytes,
                )
            )
    return text.getvalue()
