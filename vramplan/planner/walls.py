"""The wall of every axis alone: how far it could go at a run before that no longer fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from vramplan.core.recommendation import Wall
from vramplan.core.run import Method
from vramplan.planner.search.best import Answer, answer_of
from vramplan.planner.search.families import Ground
from vramplan.planner.trainer_rules import refusal
from vramplan.runfiles.flat import FlatRun

LENGTH_STEP = 256
"""Tokens between two lengths that are tried."""
MOST_ROWS = 512
"""Rows, completions a prompt and ranks beyond which nothing is tried."""


def walls_of(answer: Answer, ground: Ground, budget_bytes: int, *, longest_row: int) -> tuple[Wall, ...]:
    """Every axis of a run that fits, one after another, with the others as they are.

    Args:
        answer: the run and its estimate.
        ground: models, versions, card.
        budget_bytes: what the top of the band must fit.
        longest_row: tokens that every model takes.
    """
    return tuple(
        _wall(answer, ground, budget_bytes, axis, values, change)
        for axis, values, change in _axes(answer, ground, longest_row)
        if len(values) > 1
    )


Set = Callable[[int], FlatRun]


def _axes(answer: Answer, ground: Ground, longest_row: int) -> Iterator[tuple[str, Sequence[int], Set]]:
    """(axis, values from the run's own up, the settings that a value makes)."""
    flat, run = answer.flat, answer.setting.run
    sizes, training = run.sizes, run.training
    prompt, completion = sizes.max_prompt_length, sizes.max_completion_length
    if not completion:
        yield "max_seq_length", _up(prompt, LENGTH_STEP, longest_row), lambda n: FlatRun(max_seq_length=n)
    elif prompt == completion:
        yield "context", _up(prompt, LENGTH_STEP, longest_row // 2), lambda n: FlatRun(context=n)
    else:
        yield (
            "max_prompt_length",
            _up(prompt, LENGTH_STEP, longest_row - completion),
            lambda n: FlatRun(max_prompt_length=n, max_completion_length=completion),
        )
        yield (
            "max_completion_length",
            _up(completion, LENGTH_STEP, longest_row - prompt),
            lambda n: FlatRun(max_prompt_length=prompt, max_completion_length=n),
        )
    # A batch size that is given too would have to divide: the update grows with the rows instead.
    free = FlatRun(**{key: value for key, value in flat.given().items() if key != "batch_size"})
    per_device, generations = flat.per_device_batch_size or 1, flat.generations or 1
    steps = 1 if training is None else training.gradient_accumulation_steps

    def takes(rows: int, group: int) -> bool:
        refused = refusal(
            run.method,
            ground.stack,
            per_device=rows,
            generations=group,
            accumulation=steps,
            num_gpus=run.sharding.num_gpus,
        )
        return refused is None

    rows = [per_device, *(n for n in range(per_device + 1, MOST_ROWS) if takes(n, generations))]
    yield "per_device_batch_size", rows, lambda n: _with(free, per_device_batch_size=n)
    if run.method.rolls_out:
        groups = [generations, *(n for n in range(generations + 1, MOST_ROWS) if takes(per_device, n))]
        yield "generations", groups, lambda n: _with(free, generations=n)
    if run.method is Method.GRPO and ground.stack.generates_whole_batch:
        more = [n * steps for n in range(1, MOST_ROWS)]
        yield "gradient_accumulation_steps", more, lambda n: _with(free, gradient_accumulation_steps=n)
    if training is not None and training.lora is not None:
        yield "lora_r", _doublings(training.lora.r, MOST_ROWS), lambda n: FlatRun(lora_r=n)


def _with(flat: FlatRun, **changes: int) -> FlatRun:
    return FlatRun(**{**flat.given(), **changes})


def _up(start: int, step: int, end: int) -> list[int]:
    return [start, *range(start + step, max(end, start) + 1, step)]


def _doublings(start: int, end: int) -> list[int]:
    values = [start]
    while values[-1] * 2 <= end:
        values.append(values[-1] * 2)
    return values


def _wall(answer: Answer, ground: Ground, budget_bytes: int, axis: str, values: Sequence[int], change: Set) -> Wall:
    """Bisect: more of anything never costs less (tests/unit/formula/test_formula_relations.py)."""

    def at(value: int) -> Answer:
        changed = change(value)
        whole = changed if changed.per_device_batch_size else answer.flat.merged(changed)
        return answer_of(whole, ground)

    low, high = 0, 1  # values[low] fits; high runs ahead until it does not
    found: Answer | None = None
    while high < len(values):
        found = at(values[high])
        if found.high_bytes > budget_bytes:
            break
        low, high, found = high, min(high * 2, len(values) - 1) if high < len(values) - 1 else len(values), None
    while found is not None and high - low > 1:
        middle = (low + high) // 2
        tried = at(values[middle])
        if tried.high_bytes <= budget_bytes:
            low = middle
        else:
            high, found = middle, tried
    return Wall(
        axis=axis,
        now=values[0],
        reach=values[low],
        next_value=None if found is None else values[high],
        phase=None if found is None else max(found.phases, key=lambda phase: phase.device_used_bytes).name,
        over_bytes=None if found is None else found.high_bytes - budget_bytes,
    )
