"""What a report says in words, the same in every format."""

from __future__ import annotations

from collections.abc import Iterator

from vramplan.core.report import Component, MemoryReport, ModelReport, Phase, Verdict
from vramplan.units import format_bytes

UNIT_WORDS = {"GB": "GB (10^9 bytes)", "GiB": "GiB (2^30 bytes)", "bytes": "bytes"}

# A part below this share of its phase is counted as "other": it would be noise in a table.
_SMALL = 0.002


def component_words(component: Component) -> str:
    """The component's name for people."""
    return component.value.replace("_", " ").replace("kv", "KV")


def parameter_words(parameters: int) -> str:
    """`7.62 B` or `135 M` parameters."""
    return f"{parameters / 1e9:.2f} B" if parameters >= 10**9 else f"{parameters / 1e6:.0f} M"


def precision_column(precision: str) -> str | None:
    """Which of bf16, int8 and nf4 a precision as loaded belongs to, or None (fp32)."""
    name = precision.partition(" ")[0]
    return {"bf16": "bf16", "fp16": "bf16", "int8": "int8", "nf4": "nf4", "fp4": "nf4"}.get(name)


def owners(report: MemoryReport) -> tuple[ModelReport, ...]:
    """The models with weights of their own: one that shares another's takes no bytes in any precision."""
    return tuple(model for model in report.models if model.weights_bytes > 0)


def phase_parts(phase: Phase, units: str) -> Iterator[tuple[str, str]]:
    """Names and sizes of what a phase holds, the largest first, small ones together as `other`."""
    total = phase.device_used_bytes
    sizes = sorted(((phase.component_bytes(item), item) for item in Component), key=lambda pair: -pair[0])
    other = 0
    for num_bytes, component in sizes:
        if num_bytes < _SMALL * total:
            other += num_bytes
        elif num_bytes:
            yield component_words(component), format_bytes(num_bytes, units)
    if other:
        yield "other", format_bytes(other, units)


def peak_sentence(report: MemoryReport, units: str) -> str:
    """The peak, its band and what decides it."""
    peak = report.peak
    device, low, high = (
        format_bytes(num_bytes, units) for num_bytes in (peak.device_used_bytes, peak.low_bytes, peak.high_bytes)
    )
    part = format_bytes(report.phase(peak.phase).component_bytes(peak.component), units)
    return (
        f"Peak: {device} {units} on the device (band {low} to {high}), in the {peak.phase} phase; "
        f"its largest part is {component_words(peak.component)}, {part} {units}."
    )


def verdict_sentence(report: MemoryReport, units: str) -> str | None:
    """The verdict in words, or None without a budget."""
    budget = report.budget
    if budget is None:
        return None
    size = f"{format_bytes(budget.bytes, units)} {units}"
    left = f"{format_bytes(abs(budget.margin_bytes), units)} {units}"
    high = f"{format_bytes(report.peak.high_bytes, units)} {units}"
    low = f"{format_bytes(report.peak.low_bytes, units)} {units}"
    if budget.verdict is Verdict.FITS:
        return f"Fits in {size}, with {left} left."
    if budget.verdict is Verdict.DOES_NOT_FIT:
        return f"Does not fit in {size}: {left} too much." if budget.margin_bytes < 0 else f"Does not fit in {size}."
    return f"Uncertain: {size} lies inside the band, {low} to {high}."


def warning_lines(report: MemoryReport) -> Iterator[str]:
    """Findings as lines for stderr."""
    for item in report.warnings:
        yield f"warning {item.rule}: {item.message}"
        if item.hint:
            yield f"hint: {item.hint}"
