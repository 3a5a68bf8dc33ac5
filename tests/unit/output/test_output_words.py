"""Sentences, notes, warnings, Markdown and explanations."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from vramplan.core.report import MemoryReport
from vramplan.output.explain import render_explanation, wrapped
from vramplan.output.markdown_report import render_markdown
from vramplan.output.notes import settings_notes
from vramplan.output.words import phase_parts, warning_lines


@pytest.mark.parametrize("units", ["GB", "bytes"])
def test_parts_are_the_whole_phase(report: MemoryReport, units: str) -> None:
    for phase in report.phases:
        sizes = [size for _, size in phase_parts(phase, "bytes")]
        assert sum(int(size.replace(",", "")) for size in sizes) == phase.device_used_bytes
        assert next(phase_parts(phase, units))[0] == "weights"


def test_batch_and_generations_do_not_move_the_training_peak_and_context_does(report: MemoryReport) -> None:
    batch, context, rollout = settings_notes(report)
    assert "batch_size (64) and generations (16) do not move the training peak" in batch
    assert context.startswith("Context does")
    assert "12288 tokens per row" in context
    assert "vllm_gpu_memory_utilization (0.2)" in rollout


@pytest.mark.parametrize("method", ["inference", "score", "sft", "dpo", "grpo", "rlt"])
@pytest.mark.parametrize("rollout", [None, "hf", "vllm-colocate", "vllm-server"])
def test_every_method_has_notes_even_without_sizes(report: MemoryReport, method: str, rollout: str | None) -> None:
    notes = settings_notes(replace(report, inputs={"method": method, "rollout": rollout}))
    assert notes
    assert all(note.endswith(".") and "None" not in note for note in notes)


def test_eager_attention_is_named(report: MemoryReport) -> None:
    inputs = {**report.inputs, "attn_implementation": "eager"}
    assert "attention scores grow with its square" in settings_notes(replace(report, inputs=inputs))[1]


def test_warnings_are_lines_for_stderr(report: MemoryReport) -> None:
    assert list(warning_lines(report)) == [
        "warning VP012: vLLM does not load 8-bit in flight",
        "hint: use --rollout hf",
    ]


def test_explanation_has_formula_source_and_basis_of_every_entry(report: MemoryReport) -> None:
    text = render_explanation(report)
    entries = [entry for phase in report.phases for entry in phase.entries if entry.num_bytes]
    assert text.count("source: counted from shapes") == len(entries)
    assert text.count("[exact]") == len(entries)
    assert "= 1 × 22403543040" in text
    assert max(map(len, text.splitlines())) <= 80


def test_wrapped_keeps_every_character() -> None:
    lines = wrapped(f"a {'x' * 200}", 40, indent=2, hanging=4)
    assert "".join(lines).replace(" ", "") == "a" + "x" * 200
    assert max(map(len, lines)) <= 40


def test_markdown_tables_are_rectangular(report: MemoryReport) -> None:
    models = (replace(report.models[0], id="a|b"), *report.models[1:])
    text = render_markdown(replace(report, models=models))
    for block in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1
    assert "a\\|b" in text
    assert "**Fits in 85.00 GB, with 30.69 GB left.**" in text
    assert "- VP012: vLLM does not load 8-bit in flight" in text
