"""`vramplan accuracy`: predictions scored against measured rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vramplan.catalog import ProfileDirs
from vramplan.cli import _terminal
from vramplan.cli._answer import answer_run, find_profiles, simulate_asked, with_profile
from vramplan.cli.exit_codes import ExitCode
from vramplan.cli.options import AsJson, ProfileDirFlag
from vramplan.core.report import MemoryReport
from vramplan.errors import UsageError, VramplanError
from vramplan.records.accuracy import Accuracy, Unanswered, accuracy_of
from vramplan.records.measured_rows import read_measured
from vramplan.records.scoring import Score, score
from vramplan.records.tolerances import Tolerances, tolerances_from
from vramplan.records.truth import TruthRow
from vramplan.runfiles.flat import parse_flat

# In a checkout; an installed vramplan has the same numbers as its defaults.
_TOLERANCES = Path(__file__).resolve().parents[2] / "tests" / "truth" / "tolerances.toml"
_HOWS = ("estimate", "simulate")


def accuracy_command(
    runs: Annotated[
        str,
        typer.Argument(
            metavar="RUNS.jsonl",
            help="JSON lines of id, run, measured and source, or records: a file or a folder of them.",
        ),
    ],
    *,
    how: Annotated[str, typer.Option("--how", metavar="|".join(_HOWS), help="What predicts.")] = "estimate",
    tolerances: Annotated[
        str | None, typer.Option("--tolerances", metavar="FILE", help="Limits, in place of the shipped ones.")
    ] = None,
    rows: Annotated[bool, typer.Option("--rows", help="Also each row's error.")] = False,
    as_json: AsJson = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="The table of the README.")] = False,
    profile_dir: ProfileDirFlag = None,
) -> None:
    """Score predictions against measured runs, by source, method, quantisation and kind; exit 3 beyond tolerance."""
    if how not in _HOWS:
        raise UsageError(f"--how must be one of {', '.join(_HOWS)}, not {how!r}")
    if as_json and as_markdown:
        raise UsageError("--json and --markdown cannot go together", hint="give one of them")
    limits = _limits(tolerances)
    measured = read_measured(Path(runs))
    for sentence in measured.skipped:
        _terminal.say(f"note: left out: {sentence}")
    if not measured.rows:
        raise UsageError(f"{runs} has no measured rows", hint="records of runs that ended on a GPU are scored")
    scored = _scores(measured.rows, find_profiles(profile_dir), simulated=how == "simulate")
    found = accuracy_of(how, *scored, limits)
    _terminal.write_answer(_render(found, as_json=as_json, as_markdown=as_markdown, rows=rows))
    for sentence in found.beyond if as_json or as_markdown else ():
        _terminal.say(f"outside tolerance: {sentence}")
    raise typer.Exit(ExitCode.DOES_NOT_FIT if found.beyond else ExitCode.DONE)


accuracy_command.plain_options = True  # type: ignore[attr-defined]


def _scores(
    rows: tuple[TruthRow, ...], dirs: ProfileDirs, *, simulated: bool
) -> tuple[tuple[Score, ...], tuple[Unanswered, ...]]:
    scores: list[Score] = []
    unanswered: list[Unanswered] = []
    reports: dict[str, MemoryReport] = {}  # rows of one run that measured different things share its report
    for number, row in enumerate(rows, start=1):
        try:
            asked = with_profile(parse_flat(row.run, row.id), dirs)
            key = repr(asked.flat)
            if key not in reports:
                if simulated:
                    _terminal.say(f"simulating row {number} of {len(rows)}: {row.id}")
                reports[key] = simulate_asked(asked, dirs).report if simulated else answer_run(asked, dirs)
            report = reports[key]
        except VramplanError as error:
            unanswered.append(Unanswered(row=row, message=error.message))
            continue
        method = " ".join(filter(None, (asked.flat.method or str(report.inputs.get("method", "")), asked.flat.tuning)))
        scores.append(score(row, report.peak, method=method, quantization=asked.flat.quantization or "none"))
    return tuple(scores), tuple(unanswered)


def _limits(path: str | None) -> Tolerances:
    from vramplan.catalog.toml_file import read_toml

    if path is None and not _TOLERANCES.is_file():
        return Tolerances()
    file = _TOLERANCES if path is None else Path(path)
    return tolerances_from(read_toml(file).values, str(file))


def _render(found: Accuracy, *, as_json: bool, as_markdown: bool, rows: bool) -> str:
    from vramplan.output.accuracy_report import accuracy_to_dict, render_accuracy, render_accuracy_markdown

    if as_json:
        import json

        return json.dumps(accuracy_to_dict(found), indent=2) + "\n"
    if as_markdown:
        return render_accuracy_markdown(found)
    return render_accuracy(found, width=_terminal.columns(), rows=rows)
