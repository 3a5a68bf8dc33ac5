"""CSV: one row per phase and component."""

from __future__ import annotations

import csv
import io

from vramplan.core.report import Component, MemoryReport
from vramplan.output.csv_report import COLUMNS, render_csv


def test_rows_hold_every_component_of_every_phase(report: MemoryReport) -> None:
    rows = list(csv.DictReader(io.StringIO(render_csv(report))))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["phase"], row["component"]) for row in rows] == [
        (phase.name, component.value) for phase in report.phases for component in Component
    ]
    assert {row["phase"] for row in rows if row["is_peak"] == "true"} == {"train"}


def test_rows_of_a_phase_add_up(report: MemoryReport) -> None:
    rows = list(csv.DictReader(io.StringIO(render_csv(report))))
    for phase in report.phases:
        mine = [row for row in rows if row["phase"] == phase.name]
        assert sum(int(row["component_bytes"]) for row in mine) == phase.device_used_bytes
        assert {int(row["device_used_bytes"]) for row in mine} == {phase.device_used_bytes}
