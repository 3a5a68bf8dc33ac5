"""`vramplan compare`: the table, the JSON, tolerance, and files that are wrong."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def reports(vramplan: Callable[..., Any], tmp_path: Path) -> tuple[str, str]:
    """An estimate, and one of more rows, as `--json` writes them."""
    files = []
    for rows in ("2", "3"):
        said = vramplan("estimate", "Qwen/Qwen2.5-0.5B", "--method", "sft", "--per-device-batch-size", rows, "--json")
        file = tmp_path / f"{rows}.json"
        file.write_text(said.out)
        files.append(str(file))
    return files[0], files[1]


@pytest.mark.parametrize("units", ["GB", "GiB", "bytes"])
def test_the_table_fits_a_terminal(vramplan: Callable[..., Any], reports: tuple[str, str], units: str) -> None:
    said = vramplan("compare", *reports, "--units", units)
    assert (said.code, said.err) == (0, "")
    # The files' names are as long as they are.
    assert max(len(line) for line in said.out.splitlines() if ".json" not in line) <= 80
    assert "per_device_batch_size: 2 in A, 3 in B" in said.out
    for word in ("load", "train", "optimizer", "    weights", "peak of the run"):
        assert f"\n{word}" in said.out


def test_a_report_equals_itself(vramplan: Callable[..., Any], reports: tuple[str, str]) -> None:
    said = vramplan("compare", reports[0], reports[0], "--tolerance", "0", "--json")
    found = json.loads(said.out)
    assert said.code == 0
    assert set(found) == {
        "schema",
        "a",
        "b",
        "inputs",
        "versions",
        "phases",
        "peak",
        "tolerance_ratio",
        "within_tolerance",
        "beyond",
    }
    assert (found["schema"], found["within_tolerance"], found["inputs"]) == ("vramplan.compare/1", True, [])
    differences = [one["difference_bytes"] for phase in found["phases"] for one in phase["totals"]]
    assert differences
    assert not any(differences)


def test_beyond_tolerance_is_3(vramplan: Callable[..., Any], reports: tuple[str, str]) -> None:
    assert vramplan("compare", *reports, "--tolerance", "1000").code == 0
    said = vramplan("compare", *reports, "--tolerance", "1%")
    assert said.code == 3
    assert "Outside 1.00%:\n  train: allocated differs by +" in said.out


def test_one_may_come_from_stdin(
    vramplan: Callable[..., Any], reports: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(Path(reports[0]).read_text()))
    said = vramplan("compare", "-", reports[0], "--tolerance", "0")
    assert said.code == 0
    assert said.out.startswith("A  estimate (stdin)")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-", "-"), "error: only one of A and B can be stdin"),
        (("nope", "nope"), "error: nope cannot be read: No such file or directory"),
        (("A",), "error: B is missing"),
        (("A", "A", "--tolerance", "-1"), "error: --tolerance must be a percentage of at least 0"),
        (("A", "A", "--tolerance", "nan"), "error: --tolerance must be a percentage of at least 0"),
        (("A", "A", "--units", "MB"), "error: --units must be one of"),
        (("A", "A#x"), "error: "),
    ],
)
def test_wrong_usage_is_2(
    vramplan: Callable[..., Any], reports: tuple[str, str], arguments: tuple[str, ...], message: str
) -> None:
    said = vramplan("compare", *(reports[0] + one[1:] if one.startswith("A") else one for one in arguments))
    assert said.code == 2
    assert said.out == ""
    assert said.err.startswith(message)
    assert "Traceback" not in said.err
