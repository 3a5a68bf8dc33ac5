"""Logging to a file loads neither pandas nor rich, whatever else the program has."""

from __future__ import annotations

import json

import pytest

HEAVY = ("pandas", "numpy", "rich", "torch", "prometheus_client", "plotly", "matplotlib", "yaml", "pydantic", "asyncio")


@pytest.mark.parametrize("arguments", [(), ("--query-gpu=timestamp,memory.used",), ("--estimate", "report.json")])
def test_logging_to_a_file_loads_nothing_heavy(driver, make, tmp_path, arguments):
    peak = {"phase": "train", "device_used_bytes": 9, "low_bytes": 8, "high_bytes": 10}
    (tmp_path / "report.json").write_text(json.dumps({"schema": "vramplan.report/1", "how": "estimate", "peak": peak}))
    program = tmp_path / "loaded.py"
    program.write_text(
        "import sys\n"
        "from vramplan.cli.app import run\n"
        "code = run(sys.argv[1:])\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], int(code))\n"
    )
    result = driver.run(
        make("1"), "log", "-o", "log.csv", "-i", "0.02", "--count", "2", *arguments, program=str(program)
    )
    assert result.out == "[] 0\n", result.out + result.err
