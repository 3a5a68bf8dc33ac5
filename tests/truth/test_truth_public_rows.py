"""The estimate against measured runs that others published, within tests/truth/tolerances.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vramplan.cli.app import run


def test_estimates_are_within_tolerance(shared: Path, capsys: Any) -> None:
    code = run(["accuracy", str(shared / "truth" / "runs.jsonl"), "--rows"])
    table = capsys.readouterr().out
    print(table)  # by source, method, quantisation and kind; pytest shows it when the next line fails
    assert code == 0, table[table.rindex("Outside tolerance:") :]
