"""A command line in this process, and a report that no formula had to make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from vramplan.cli.app import run
from vramplan.core.report import (
    Basis,
    Budget,
    Component,
    Entry,
    Finding,
    MemoryReport,
    ModelReport,
    Peak,
    Phase,
    Verdict,
)
from vramplan.runfiles.flat import FlatRun

GB = 10**9


@dataclass(frozen=True)
class Said:
    """What a command line wrote, and its exit code."""

    code: int
    out: str
    err: str


@pytest.fixture
def vramplan(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def call(*argv: str) -> Said:
        code = run(argv)
        captured = capsys.readouterr()
        return Said(code=code, out=captured.out, err=captured.err)

    return call


def _report(flat: FlatRun, run_id: str | None) -> MemoryReport:
    entries = (
        Entry(
            component=Component.WEIGHTS,
            label="model",
            num_bytes=10 * GB,
            basis=Basis.EXACT,
            formula="1 × 10",
            source="x",
        ),
        Entry(
            component=Component.CONTEXT, label="context", num_bytes=GB, basis=Basis.MEASURED, formula="1", source="y"
        ),
    )
    phase = Phase(name="prefill", entries=entries)
    return MemoryReport(
        how="estimate",
        id=run_id,
        inputs=flat.to_dict() | {"method": flat.method or "inference"},
        models=(
            ModelReport(
                role="model",
                id=flat.model or "none",
                parameters=5 * GB,
                weights_bytes=10 * GB,
                by_precision={"bf16": 10 * GB, "int8": 6 * GB, "nf4": 4 * GB},
                precision="bf16",
            ),
        ),
        phases=(phase,),
        peak=Peak(
            phase="prefill",
            component=Component.WEIGHTS,
            allocated_bytes=phase.allocated_bytes,
            reserved_bytes=phase.reserved_bytes,
            device_used_bytes=phase.device_used_bytes,
            low_bytes=10_500_000_000,
            high_bytes=11_500_000_000,
        ),
        budget=None,
        assumptions=(),
        warnings=(),
        versions={},
    )


@dataclass
class Planner:
    """Stands in for planner.answer: keeps what it was asked, and answers with `change` applied."""

    asked: list[FlatRun] = field(default_factory=list)
    change: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None

    def answer(self, flat: FlatRun, *, profile_dirs: object, run_id: str | None = None) -> MemoryReport:
        self.asked.append(flat)
        if self.error is not None:
            raise self.error
        return replace(_report(flat, run_id), **self.change)

    def with_verdict(self, verdict: Verdict) -> None:
        self.change["budget"] = Budget(bytes=11 * GB, verdict=verdict, margin_bytes=0)

    def with_warning(self) -> None:
        self.change["warnings"] = (Finding(rule="VP012", message="it is so", hint="do this", source="z"),)


@pytest.fixture
def planner(monkeypatch: pytest.MonkeyPatch) -> Planner:
    stand_in = Planner()
    monkeypatch.setattr("vramplan.planner.answer.answer", stand_in.answer)
    return stand_in


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's profile folder, in use by VRAMPLAN_PROFILES."""
    folder = tmp_path / "profiles"
    (folder / "runs").mkdir(parents=True)
    monkeypatch.setenv("VRAMPLAN_PROFILES", str(folder))
    return folder
