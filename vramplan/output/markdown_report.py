"""A report as Markdown, for an issue, a README or a lab notebook."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vramplan.core.report import MemoryReport
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

_PRECISION_HEADS = ("bf16", "8-bit", "4-bit")


def render_markdown(report: MemoryReport, *, units: str = "GB") -> str:
    """Models, phases, verdict, notes and assumptions."""
    blocks = [
        f"**Models** ({UNIT_WORDS[units]}, as loaded in bold)",
        _table(("role", "model", "parameters", *_PRECISION_HEADS, "this run"), _models(report, units)),
        f"**Peak per phase** ({UNIT_WORDS[units]})",
        _table(("phase", "allocated", "reserved", "device", "parts"), _phases(report, units)),
        peak_sentence(report, units),
    ]
    verdict = verdict_sentence(report, units)
    if verdict is not None:
        blocks.append(f"**{verdict}**")
    if report.comparisons:
        blocks += [
            f"**What documents say of this run** ({UNIT_WORDS[units]})",
            _table(("sum", "claimed", "estimated", "remark"), _comparisons(report, units)),
        ]
    blocks.append(_bullets(settings_notes(report)))
    if report.assumptions:
        blocks += ["Assumed:", _bullets(report.assumptions)]
    if report.warnings:
        blocks += ["Warnings:", _bullets(f"{item.rule}: {item.message}" for item in report.warnings)]
    return "\n\n".join(blocks) + "\n"


def _models(report: MemoryReport, units: str) -> Iterable[Sequence[str]]:
    for model in report.models:
        loaded = precision_column(model.precision)
        sizes = []
        for name in PRECISIONS:
            size = format_bytes(model.by_precision[name], units)
            sizes.append(f"**{size}**" if name == loaded else size)
        own = format_bytes(model.weights_bytes, units) if model.weights_bytes else "shared"
        yield model.role, model.id, parameter_words(model.parameters), *sizes, f"{own} ({model.precision})"
    models = owners(report)
    totals = [sum(model.by_precision[name] for model in models) for name in PRECISIONS]
    total = sum(model.weights_bytes for model in models)
    yield "total", "", "", *(format_bytes(num_bytes, units) for num_bytes in totals), format_bytes(total, units)
    saved = [format_bytes(totals[0] - num_bytes, units) for num_bytes in totals[1:]]
    yield "saved against bf16", "", "", "", *saved, format_bytes(totals[0] - total, units)


def _phases(report: MemoryReport, units: str) -> Iterable[Sequence[str]]:
    for phase in report.phases:
        name = f"**{phase.name}**" if phase.name == report.peak.phase else phase.name
        parts = ", ".join(f"{part} {size}" for part, size in phase_parts(phase, units))
        sizes = (phase.allocated_bytes, phase.reserved_bytes, phase.device_used_bytes)
        yield name, *(format_bytes(num_bytes, units) for num_bytes in sizes), parts


def _comparisons(report: MemoryReport, units: str) -> Iterable[Sequence[str]]:
    for item in report.comparisons:
        sizes = (format_bytes(num_bytes, units) for num_bytes in (item.claimed_bytes, item.estimated_bytes))
        yield item.what, *sizes, item.remark


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---" if head in ("role", "model", "phase", "parts", "sum", "remark") else "---:" for head in heads]
    return "\n".join("| " + " | ".join(_cell(text) for text in row) + " |" for row in (heads, rule, *rows))


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def _bullets(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)
