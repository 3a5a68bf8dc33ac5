"""`vramplan measure --matrix`: many runs, their records in a file, one line for each at the end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from vramplan.catalog.dirs import ProfileDirs
from vramplan.catalog.matrices import load_matrix
from vramplan.cli import _terminal
from vramplan.cli._report import Output
from vramplan.cli.exit_codes import ExitCode
from vramplan.cli.measure import record_file
from vramplan.errors import UsageError
from vramplan.planner.bench import open_bench
from vramplan.planner.matrix import MatrixResult, run_matrix
from vramplan.planner.measure_plan import Manner


def measure_matrix(
    name: str, manner: Manner, number: int, dirs: ProfileDirs, form: Output, output: str | None
) -> ExitCode:
    """Measure a matrix; without a file its records go under profiles/measurements/GPU/.

    Raises:
        VramplanError: the matrix is wrong, or there is nothing to measure on.
    """
    if form.form not in ("table", "json"):
        raise UsageError("--matrix answers as a table or in JSON lines", hint="leave out --csv and --markdown")
    matrix = load_matrix(name, dirs)
    bench = open_bench(number, dirs)
    path = Path(output) if output is not None else record_file(bench, dirs, matrix.file.name)
    manner = replace(manner, snapshots=path.parent)
    result = run_matrix(matrix, manner, bench, path, profile_dirs=dirs, progress=_terminal.say)
    _print(result, form)
    _terminal.say(f"{len(result.records)} records in {path}, {result.num_skipped} of them from before")
    for refused in result.refused:
        _terminal.say(f"not measured: {refused.title}: {refused.message}")
    if result.was_interrupted:
        return ExitCode.INTERRUPTED
    if any(record.outcome in ("failed", "killed", "timed_out") for record in result.records):
        return ExitCode.CRASH
    return ExitCode(min((refused.exit_code for refused in result.refused), default=ExitCode.DONE))


def _print(result: MatrixResult, form: Output) -> None:
    if form.form == "json":
        for record in result.records:
            _terminal.write_answer(json.dumps(record.to_json(), separators=(",", ":")) + "\n")
    elif result.records:
        from vramplan.output.measured_text import render_matrix

        _terminal.write_answer(render_matrix(result.records, units=form.units, width=_terminal.columns()))
