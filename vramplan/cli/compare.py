"""`vramplan compare`: two reports or records side by side."""

from __future__ import annotations

import math
import sys
from typing import Annotated

import typer

from vramplan.cli import _terminal
from vramplan.cli._report import choose_output
from vramplan.cli.exit_codes import ExitCode
from vramplan.cli.options import AsJson, Units
from vramplan.errors import UsageError

_WHAT = "A report (--json of estimate, simulate or measure) or a record: FILE, FILE#ID, FILE:LINE, or - for stdin."


def compare_command(
    a: Annotated[str, typer.Argument(metavar="A", help=_WHAT)],
    b: Annotated[str, typer.Argument(metavar="B", help="The same; it is held against A.")],
    *,
    tolerance: Annotated[
        str | None,
        typer.Option("--tolerance", metavar="PCT", help="Exit 3 where a total differs by more per cent of A."),
    ] = None,
    as_json: AsJson = False,
    units: Units = "GB",
) -> None:
    """Put two reports or records side by side, phase by phase and component by component."""
    from vramplan.records.choose import STDIN, parse_choice, read_side
    from vramplan.records.compare import compare

    output = choose_output(as_json=as_json, as_csv=False, as_markdown=False, units=units, explain=False)
    choices = parse_choice(a), parse_choice(b)
    if all(choice.file == STDIN for choice in choices):
        raise UsageError("only one of A and B can be stdin")
    ratio = None if tolerance is None else _ratio(tolerance)
    found = compare(*(read_side(choice, _read_stdin) for choice in choices), tolerance_ratio=ratio)
    if output.form == "json":
        import json

        from vramplan.output.compare_report import comparison_to_dict

        text = json.dumps(comparison_to_dict(found), indent=2) + "\n"
    else:
        from vramplan.output.compare_report import render_comparison

        text = render_comparison(found, units=output.units, width=_terminal.columns())
    _terminal.write_answer(text)
    raise typer.Exit(ExitCode.DOES_NOT_FIT if found.beyond else ExitCode.DONE)


compare_command.plain_options = True  # type: ignore[attr-defined]


def _ratio(text: str) -> float:
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        percent = math.nan
    if not 0 <= percent < math.inf:
        raise UsageError(f"--tolerance must be a percentage of at least 0, not {text!r}", hint="--tolerance 2")
    return percent / 100


def _read_stdin() -> str:
    if sys.stdin is None:
        raise UsageError("stdin is closed")
    return sys.stdin.read()
