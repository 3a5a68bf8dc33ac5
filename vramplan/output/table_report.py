"""A report as three tables for a terminal or a pipe: models, phases, and what the settings do."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vramplan.core.report import MemoryReport, ModelReport, Phase, Verdict
from vramplan.output.console import plain_table, text_console
from vramplan.output.explain import wrapped
from vramplan.output.json_report import PRECISIONS
from vramplan.output.notes import settings_notes
from vramplan.output.words import (
    UNIT_WORDS,
    owners,
    parameter_words,
    peak_sentence,
    phase_parts,
    precision_column,
    verdict_sentence,
)
from vramplan.units import format_bytes

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_NO_BREAK = "\ue000"
"""Holds a part and its size on one line while rich wraps: rich breaks at U+00A0, and this becomes a blank after it."""

_VERDICT_STYLES = {Verdict.FITS: "bold green", Verdict.UNCERTAIN: "bold yellow", Verdict.DOES_NOT_FIT: "bold red"}


def render_tables(
    report: MemoryReport,
    *,
    units: str = "GB",
    width: int = 80,
    colour: bool = False,
    only_ascii: bool = False,
    title: str | None = None,
    notes: Sequence[str] = (),
) -> str:
    """The answer for people. Nothing is cut off: what does not fit a line goes on in the next.

    Args:
        units: GB, GiB or bytes.
        width: columns.
        colour: whether to write ANSI colours.
        only_ascii: whether rules are drawn in ASCII.
        title: what the run is, above the tables.
        notes: what to know about it, below them.
    """
    text = io.StringIO()
    console = text_console(text, width=width, colour=colour)

    def say(sentences: Sequence[str], style: str | None = None) -> None:
        for sentence in sentences:
            for line in wrapped(sentence, width, hanging=2):
                console.print(line, style=style, soft_wrap=True)

    def head(sentence: str) -> None:
        console.print()
        say([sentence], "bold")

    if title:
        say([title])
    head(f"Models, in {UNIT_WORDS[units]}; * as loaded in this run")
    if units == "bytes":  # such numbers leave no room for names
        say([f"{model.role}: {model.id}, {_loaded(model)}" for model in report.models])
        console.print()
    console.print(_models_table(report, units, only_ascii=only_ascii))
    head(f"Peak per phase, in {UNIT_WORDS[units]}; > the highest")
    console.print(_phases_table(report, units, only_ascii=only_ascii))
    console.print()
    console.print(_parts_table(report, units, only_ascii=only_ascii))
    console.print()
    say([peak_sentence(report, units)])
    verdict = verdict_sentence(report, units)
    if verdict is not None and report.budget is not None:
        say([verdict], _VERDICT_STYLES[report.budget.verdict])
    if report.comparisons:
        head(f"What documents say of this run, in {UNIT_WORDS[units]}")
        console.print(_comparisons_table(report, units, only_ascii=only_ascii))
    head("What the settings do")
    say([f"- {sentence}" for sentence in settings_notes(report)])
    for name, sentences in (("Notes on this run", notes), ("Assumed", report.assumptions)):
        if sentences:
            head(name)
            say([f"- {sentence}" for sentence in sentences])
    lines = text.getvalue().replace(_NO_BREAK, " ").splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _models_table(report: MemoryReport, units: str, *, only_ascii: bool) -> Table:
    table = plain_table(only_ascii=only_ascii)
    _label_column(table, "role" if units == "bytes" else "role and model")
    for name in ("bf16", "8-bit", "4-bit", "this run"):
        _size_column(table, name)
    for model in report.models:
        loaded = precision_column(model.precision)
        sizes = [_marked(format_bytes(model.by_precision[name], units), name == loaded) for name in PRECISIONS]
        own = format_bytes(model.weights_bytes, units) if model.weights_bytes else "shared"
        label = model.role if units == "bytes" else f"{model.role}\n  {model.id}\n  {_loaded(model)}"
        table.add_row(_plain(label), *sizes, own)
    models = owners(report)
    totals = [sum(model.by_precision[name] for model in models) for name in PRECISIONS]
    run = sum(model.weights_bytes for model in models)
    table.add_section()
    table.add_row("total", *(_marked(format_bytes(size, units), False) for size in totals), format_bytes(run, units))
    bf16 = totals[0]
    saved = [_marked(format_bytes(bf16 - size, units), False) for size in totals[1:]]
    table.add_row("saved against bf16", "", *saved, format_bytes(bf16 - run, units))
    shares = [_marked(f"{1 - size / bf16:.0%}", False) for size in totals[1:]]
    table.add_row("", "", *shares, f"{1 - run / bf16:.0%}")
    return table


def _phases_table(report: MemoryReport, units: str, *, only_ascii: bool) -> Table:
    # In bytes a fourth column of sizes would leave no room for names; the verdict says what is left.
    budget = None if units == "bytes" else report.budget
    table = plain_table(only_ascii=only_ascii)
    _label_column(table, "phase")
    for name in ("allocated", "reserved", "device"):
        _size_column(table, name)
    if budget is not None:
        _size_column(table, f"left of\n{format_bytes(budget.bytes, units)}")
    for phase in report.phases:
        sizes = [phase.allocated_bytes, phase.reserved_bytes, phase.device_used_bytes]
        if budget is not None:
            sizes.append(budget.bytes - phase.device_used_bytes)
        cells = [format_bytes(size, units) for size in sizes]
        table.add_row(_phase_name(report, phase), *cells, style=_phase_style(report, phase))
    return table


def _parts_table(report: MemoryReport, units: str, *, only_ascii: bool) -> Table:
    table = plain_table(only_ascii=only_ascii)
    _label_column(table, "phase")
    _label_column(table, "what it holds, the largest first")
    for phase in report.phases:
        parts = " ".join(f"{part} {size},".replace(" ", _NO_BREAK) for part, size in phase_parts(phase, units))
        table.add_row(_phase_name(report, phase), _plain(parts.rstrip(",")), style=_phase_style(report, phase))
    return table


def _phase_name(report: MemoryReport, phase: Phase) -> Text:
    return _plain(f"{'>' if phase.name == report.peak.phase else ' '} {phase.name}")


def _phase_style(report: MemoryReport, phase: Phase) -> str | None:
    return "bold" if phase.name == report.peak.phase else None


def _comparisons_table(report: MemoryReport, units: str, *, only_ascii: bool) -> Table:
    table = plain_table(only_ascii=only_ascii)
    _label_column(table, "sum, and what it leaves out")
    for name in ("claimed", "estimated"):
        _size_column(table, name)
    for item in report.comparisons:
        sizes = (format_bytes(num_bytes, units) for num_bytes in (item.claimed_bytes, item.estimated_bytes))
        table.add_row(_plain(f"{item.what}\n{item.remark}"), *sizes)
    return table


def _loaded(model: ModelReport) -> str:
    return f"{parameter_words(model.parameters)} parameters, {model.precision}"


def _label_column(table: Table, name: str) -> None:
    table.add_column(name, overflow="fold")


def _size_column(table: Table, name: str) -> None:
    table.add_column(name, justify="right", no_wrap=True)


def _plain(text: str) -> Text:
    from rich.text import Text

    return Text(text)


def _marked(text: str, marked: bool) -> str:
    return f"{text}*" if marked else f"{text} "
