"""A recommendation for a terminal or a pipe: three runs side by side, the frontier, the walls, what would help."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from vramplan.core.recommendation import Change, FrontierPoint, Recommendation, Recommended
from vramplan.output.console import plain_table, text_console
from vramplan.output.explain import wrapped
from vramplan.output.words import UNIT_WORDS
from vramplan.units import format_bytes

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PRECISION_WORDS = {"none": "16-bit", "int8": "8-bit", "nf4": "4-bit", "fp4": "4-bit fp4", "stored": "as stored"}
AXIS_WORDS = {
    "context": "context (prompt and completion, each)",
    "max_seq_length": "tokens of a row",
    "max_prompt_length": "prompt",
    "max_completion_length": "completion",
    "per_device_batch_size": "per-device batch",
    "generations": "generations",
    "gradient_accumulation_steps": "accumulation steps",
    "lora_r": "LoRA rank",
}


def render_recommendation(
    found: Recommendation,
    *,
    units: str = "GB",
    width: int = 80,
    colour: bool = False,
    only_ascii: bool = False,
) -> str:
    """The answer for people.

    Args:
        found: the recommendation.
        units: GB, GiB or bytes.
        width: columns.
        colour: whether to write ANSI colours.
        only_ascii: whether rules are drawn in ASCII.
    """
    text = io.StringIO()
    console = text_console(text, width=width, colour=colour)
    page = _Page(console, units, width, only_ascii=only_ascii)
    page.say(
        f"{found.method} in {page.size(found.budget_bytes)} {units} ({found.gpu}): "
        f"{found.num_settings:,} settings looked at"
    )
    if found.closest is not None:
        _nothing(page, found, found.closest)
    else:
        _runs(page, found)
        _frontier(page, found)
        _walls(page, found)
    for obstacle in found.obstacles:
        page.head(
            f"{obstacle.what}: {page.size(obstacle.over_bytes)} {units} too much in the {obstacle.phase} phase, "
            f"its largest growing part {obstacle.component.replace('_', ' ')}"
        )
        page.points([page.change(change) for change in obstacle.changes] or ["no single change helps"])
    if found.recommended:
        _start(page, found)
    if found.notes:
        page.head("Notes")
        page.points(found.notes)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


class _Page:
    """Writes lines and tables in one unit and width."""

    def __init__(self, console: Console, units: str, width: int, *, only_ascii: bool) -> None:
        self.console, self.units, self._width, self._only_ascii = console, units, width, only_ascii

    def say(self, sentence: str, style: str | None = None) -> None:
        for line in wrapped(sentence, self._width, hanging=2):
            self.console.print(line, style=style, soft_wrap=True)

    def head(self, sentence: str) -> None:
        self.console.print()
        self.say(sentence, "bold")

    def points(self, sentences: Sequence[str]) -> None:
        for sentence in sentences:
            self.say(f"- {sentence}")

    def size(self, num_bytes: int) -> str:
        return format_bytes(num_bytes, self.units)

    def change(self, change: Change) -> str:
        verdict = "then it fits" if change.fits else "not enough alone"
        return f"{change.what}: frees {self.size(change.freed_bytes)} {self.units}, {verdict}"

    def table(self) -> Table:
        return plain_table(only_ascii=self._only_ascii)


def _runs(page: _Page, found: Recommendation) -> None:
    page.head(f"Recommended runs, in {UNIT_WORDS[page.units]}")
    table = page.table()
    table.add_column("", overflow="fold")
    for one in found.recommended:
        table.add_column(one.name, justify="right", overflow="fold")
    rows = [dict(_settings(one)) for one in found.recommended]
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        table.add_row(name, *(row.get(name, "") for row in rows))
    table.add_section()
    phases = list(dict.fromkeys(phase.name for one in found.recommended for phase in one.report.phases))
    for name in phases:
        sizes = [
            next((page.size(phase.device_used_bytes) for phase in one.report.phases if phase.name == name), "")
            for one in found.recommended
        ]
        table.add_row(f"{name} phase", *sizes)
    table.add_section()
    lines: list[tuple[str, Callable[[Recommended], str]]] = [
        ("peak on the device", lambda one: page.size(one.report.peak.device_used_bytes)),
        ("of the budget", lambda one: f"{one.report.peak.device_used_bytes / found.budget_bytes:.0%}"),
        ("top of its band", lambda one: page.size(one.report.peak.high_bytes)),
        ("left of the budget", lambda one: page.size(one.margin_bytes)),
        ("limited by", lambda one: one.limited_by.replace("_", " ")),
    ]
    for name, cell in lines:
        table.add_row(name, *(cell(one) for one in found.recommended))
    page.console.print(table)


def _settings(one: Recommended) -> Iterator[tuple[str, str]]:
    """The settings that a search may have chosen, in words."""
    inputs = one.report.inputs
    for model in one.report.models:
        shared = "" if model.weights_bytes else ", shared"
        yield model.role, f"{model.precision.replace(' (double quant)', '')}{shared}"
    if inputs["tuning"] is not None:
        rank = inputs["lora_r"]
        yield "tuning", "full" if rank is None else f"LoRA, r {rank}"
        yield "checkpointing", "on" if inputs["gradient_checkpointing"] else "off"
    yield "attention", str(inputs["attn_implementation"]).replace("flash_attention_2", "flash")
    offloaded = inputs["offload"]
    if isinstance(offloaded, (list, tuple)) and offloaded:
        yield "in host memory", ", ".join(str(name) for name in offloaded)
    if inputs["max_seq_length"] is not None:
        yield "tokens of a row", f"{inputs['max_seq_length']:,}"
    else:
        yield "prompt + completion", f"{inputs['max_prompt_length']:,} + {inputs['max_completion_length']:,}"
    yield "per-device batch", f"{inputs['per_device_batch_size']}"
    if inputs["gradient_accumulation_steps"] is not None:
        yield "accumulation steps", f"{inputs['gradient_accumulation_steps']}"
        yield "global batch", f"{inputs['batch_size']}"
    if inputs["generations"] is not None:
        yield "generations", f"{inputs['generations']}"
        yield "rows of a rollout", f"{inputs['rollout_rows']}"
    if inputs["rollout"] == "vllm-colocate":
        yield "vLLM's share", f"{inputs['vllm_gpu_memory_utilization']}" + (", sleeps" if inputs["vllm_sleep"] else "")


def _frontier(page: _Page, found: Recommendation) -> None:
    if not found.frontier:
        return
    generates = any(point.rollout_rows for point in found.frontier)
    what = "context × per-device batch" + (" × rollout rows" if generates else "")
    page.head(f"How far each precision goes ({what}); no other point goes further in all")
    table = page.table()
    trained = found.roles[0]
    tokens = "prompt + completion" if any(point.completion for point in found.frontier) else "tokens"
    for name in (f"{trained} in", tokens, "per-device", *(("rollout rows",) if generates else ())):
        table.add_column(name, justify="left" if name.endswith(" in") else "right", overflow="fold")
    for name in ("device", "band to"):
        table.add_column(name, justify="right", overflow="fold")
    before = ""
    for point in found.frontier:
        table.add_row(*_point(page, point, shows=point.precision != before, generates=generates))
        before = point.precision
    page.console.print(table)


def _point(page: _Page, point: FrontierPoint, *, shows: bool, generates: bool) -> list[str]:
    tokens = f"{point.prompt:,} + {point.completion:,}" if point.completion else f"{point.prompt:,}"
    cells = [PRECISION_WORDS.get(point.precision, point.precision) if shows else "", tokens, str(point.rows)]
    if generates:
        cells.append(str(point.rollout_rows))
    return [*cells, page.size(point.device_used_bytes), page.size(point.high_bytes)]


def _walls(page: _Page, found: Recommendation) -> None:
    if not found.walls:
        return
    page.head(f"How far each setting of the {found.walls_of} run could go alone")
    for wall in found.walls:
        name = AXIS_WORDS.get(wall.axis, wall.axis)
        if wall.next_value is None and wall.reach == wall.now:
            page.points([f"{name}: {wall.now:,} now; the models and the trainer take nothing larger here"])
            continue
        if wall.next_value is None or wall.over_bytes is None:
            page.points([f"{name}: {wall.now:,} now; {wall.reach:,} still fits, as far as was looked"])
            continue
        page.points(
            [
                f"{name}: {wall.now:,} now, up to {wall.reach:,}; at {wall.next_value:,} the {wall.phase} phase is "
                f"{page.size(wall.over_bytes)} {page.units} too much"
            ]
        )


def _start(page: _Page, found: Recommendation) -> None:
    """For each run what asks about it again, and the file that trains it."""
    for one in found.recommended:
        page.head(f"The {one.name} run")
        page.console.print(one.command, soft_wrap=True)
        if one.file_text is not None:
            page.console.print()
            for line in one.file_text.rstrip().splitlines():
                page.console.print(f"  {line}", soft_wrap=True)


def _nothing(page: _Page, found: Recommendation, closest: Recommended) -> None:
    peak = closest.report.peak
    missing = found.missing_bytes or 0
    page.head(f"Nothing fits: the least that any setting needs is {page.size(peak.device_used_bytes)} {page.units}")
    page.say(
        f"With the top of its band, {page.size(peak.high_bytes)} {page.units}, that misses the budget by "
        f"{page.size(missing)} {page.units}, in the {peak.phase} phase. Its settings:"
    )
    page.points([f"{name}: {value}" for name, value in _settings(closest)])
