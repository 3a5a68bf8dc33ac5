"""Printing a report: which format was asked for, what goes to stderr, which exit code follows."""

from __future__ import annotations

from vramplan.cli import _terminal
from vramplan.cli._answer import Asked
from vramplan.cli.exit_codes import ExitCode, verdict_code
from vramplan.core.quick import dataclass
from vramplan.core.report import MemoryReport, Verdict
from vramplan.errors import UsageError
from vramplan.output.words import verdict_sentence, warning_lines
from vramplan.units import DISPLAY_UNITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What was asked of the output.

    Args:
        form: `table`, `json`, `csv` or `markdown`.
        units: of tables and Markdown; JSON and CSV hold bytes.
        explain: whether formulas and sources follow the tables.
    """

    form: str
    units: str
    explain: bool


def choose_output(*, as_json: bool, as_csv: bool, as_markdown: bool, units: str, explain: bool) -> Output:
    """The output that the flags ask for.

    Raises:
        UsageError: two forms at once, an unknown unit, or an explanation in a form that has no room for one.
    """
    forms = {"json": as_json, "csv": as_csv, "markdown": as_markdown}
    asked = [name for name, on in forms.items() if on]
    if len(asked) > 1:
        raise UsageError(f"--{' and --'.join(asked)} cannot go together", hint="give one of them")
    spelled = {unit.lower(): unit for unit in DISPLAY_UNITS}.get(units.lower())
    if spelled is None:
        raise UsageError(f"--units must be one of {', '.join(DISPLAY_UNITS)}, not {units!r}")
    form = asked[0] if asked else "table"
    if explain and form in ("json", "csv"):
        raise UsageError(f"--explain and --{form} cannot go together", hint="--explain is for tables and --markdown")
    return Output(form=form, units=spelled, explain=explain)


def print_report(report: MemoryReport, asked: Asked, output: Output) -> ExitCode:
    """Write the report; the exit code is its verdict's."""
    for line in () if asked.shadowing is None else (f"note: {asked.shadowing}",):
        _terminal.say(line)
    for line in warning_lines(report):
        _terminal.say(line)
    if report.budget is not None and report.budget.verdict is Verdict.UNCERTAIN:
        _terminal.say(f"warning: {verdict_sentence(report, output.units)}")
    _terminal.write_answer(_render(report, asked, output))
    return verdict_code(report)


def _render(report: MemoryReport, asked: Asked, output: Output) -> str:
    if output.form == "json":
        from vramplan.output.json_report import render_json

        return render_json(report)
    if output.form == "csv":
        from vramplan.output.csv_report import render_csv

        return render_csv(report)
    if output.form == "markdown":
        from vramplan.output.markdown_report import render_markdown

        text = render_markdown(report, units=output.units)
        return f"{text}\n```\n{_explanation(report, output, 100)}```\n" if output.explain else text
    from vramplan.output.table_report import render_tables

    width = _terminal.columns()
    text = render_tables(
        report,
        units=output.units,
        width=width,
        colour=_terminal.has_colour(),
        only_ascii=_terminal.only_ascii(),
        title=asked.title,
        notes=asked.notes,
    )
    return f"{text}\n{_explanation(report, output, width)}" if output.explain else text


def _explanation(report: MemoryReport, output: Output, width: int) -> str:
    from vramplan.output.explain import render_explanation

    return render_explanation(report, units=output.units, width=width)
