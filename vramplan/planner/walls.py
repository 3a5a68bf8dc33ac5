"""The wall of every axis alone: how far it could go at a run before that no longer fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from vramplan.core.recommendation import Wall
from vramplan.core.run import Method
from vramplan.planner.search.best import Answer, answer_of
from vramplan.planner.search.evaluate import MAX_SHARE, in_steps, needed_share
from vramplan.planner.search.families import Ground
from vramplan.planner.trainer_rules import refusal
from vramplan.runfiles.flat import FlatRun

LENGTH_STEP = 256
"""Tokens between two lengths that are tried."""
MOST_ROWS = 512
"""Rows, completions a prompt and ranks beyond which nothing is tried."""


def walls_of(
    answer: Answer, ground: Ground, budget_bytes: int, *, longest_row: int, share: float | None = None
) -> tuple[Wall, ...]:
    """Every axis of a run that fits, one after another, with the others as they are.

    Args:
        answer: the run and its estimate.
        ground: models, versions, card.
        budget_bytes: what the top of the band must fit.
        longest_row: tokens that every model takes.
        share: a colocated engine's share of the card where that is given; else it grows with what it has to hold.
    """

    def tried(flat: FlatRun) -> _Tried:
        found, shortage = _with_engine(flat, ground, share)
        if shortage > 0:
            return _Tried(over_bytes=shortage, phase="rollout")
        answered = answer_of(found, ground)
        phase = max(answered.phases, key=lambda phase: phase.device_used_bytes).name
        return _Tried(over_bytes=answered.high_bytes - budget_bytes, phase=phase)

    return tuple(
        _wall(answer.flat, tried, axis, values, change) for axis, values, change in _axes(answer, ground, longest_row)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tried:
    over_bytes: int
    phase: str


def _with_engine(flat: FlatRun, ground: Ground, share: float | None) -> tuple[FlatRun, int]:
    """The run with an engine that serves and holds its rollout, and the bytes of the card that this lacks."""
    if flat.rollout != "vllm-colocate":
        return flat, 0
    setting = ground.setting(flat)
    sizes = setting.run.sizes
    needed = float(needed_share(setting, sizes.rollout_rows * sizes.sequence_length))
    most = MAX_SHARE if share is None else share
    if needed > most:
        return flat, int((needed - most) * setting.gpu.total_bytes)
    own = min(max(float(in_steps(needed)), flat.vllm_gpu_memory_utilization or 0.0), MAX_SHARE)
    length = max(flat.vllm_max_model_length or 0, sizes.sequence_length)
    engine = FlatRun(vllm_gpu_memory_utilization=own if share is None else share, vllm_max_model_length=length)
    return flat.merged(engine), 0


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

    rows = [per_device, *(n for n in range(per_device + 1, MOST_ROWS + 1) if takes(n, generations))]
    yield "per_device_batch_size", rows, lambda n: _with(free, per_device_batch_size=n)
    if run.method.rolls_out:
        groups = [generations, *(n for n in range(generations + 1, MOST_ROWS + 1) if takes(per_device, n))]
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


def _wall(flat: FlatRun, tried: Callable[[FlatRun], _Tried], axis: str, values: Sequence[int], change: Set) -> Wall:
    """Bisect: more of anything never costs less (tests/unit/formula/test_formula_relations.py)."""

    def at(value: int) -> _Tried:
        changed = change(value)
        return tried(changed if changed.per_device_batch_size else flat.merged(changed))

    low, high = 0, 1  # values[low] fits; high runs ahead until it does not
    found: _Tried | None = None
    while high < len(values):
        found = at(values[high])
        if found.over_bytes > 0:
            break
        low, high, found = high, min(high * 2, len(values) - 1) if high < len(values) - 1 else len(values), None
    while found is not None and high - low > 1:
        middle = (low + high) // 2
        between = at(values[middle])
        if between.over_bytes <= 0:
            low = middle
        else:
            high, found = middle, between
    return Wall(
        axis=axis,
        now=values[0],
        reach=values[low],
        next_value=None if found is None else values[high],
        phase=None if found is None else found.phase,
        over_bytes=None if found is None else found.over_bytes,
    )
