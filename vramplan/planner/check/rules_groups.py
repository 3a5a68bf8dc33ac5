"""Completions that are compared with each other: whole groups in every rollout, and how many rows that makes."""

from __future__ import annotations

from collections.abc import Iterator
from math import lcm

from vramplan.catalog.stacks import parse_version
from vramplan.planner.check.finding import Problem, Severity
from vramplan.planner.check.rule import Rule
from vramplan.planner.check.subject import Subject


def _fewest(subject: Subject) -> Iterator[Problem]:
    generations = subject.flat.generations
    if subject.rolls_out and generations is not None and generations < 2:
        at = subject.place_of("generations")
        yield Problem(
            at=at,
            key="" if at else "num_generations",
            message=f"{generations} completion a prompt has no group to compare with: "
            + (
                "num_generations has to be 2 or more"
                if subject.is_rlt
                else 'TRL raises "GRPO requires at least 2 generations per prompt"'
            ),
            hint="use 2 or more",
        )


def _groups(subject: Subject) -> Iterator[Problem]:
    generations = subject.flat.generations
    if not subject.rolls_out or generations is None or generations < 2:
        return
    found = _rlt_rows(subject) if subject.is_rlt else _trl_rows(subject)
    if found is None:
        return
    rows, formula, words = found
    if rows % generations == 0:
        return
    at = subject.place_of("generations")
    divisors = [str(one) for one in range(2, rows + 1) if rows % one == 0]
    shown = divisors if len(divisors) <= 8 else [*divisors[:4], "…", *divisors[-3:]]
    yield Problem(
        at=at,
        key="" if at else "num_generations",
        message=f"{generations} completions a prompt do not divide the {rows} rows of a rollout ({formula}): {words}",
        hint=f"use one of {', '.join(shown)}, or rows in multiples of {lcm(generations, rows)}"
        if divisors
        else f"generate rows in multiples of {generations}",
    )


Rows = tuple[int, str, str]


def _rlt_rows(subject: Subject) -> Rows | None:
    per_device, steps = subject.flat.per_device_batch_size, subject.count("generation_aggregation_steps") or 1
    if per_device is None:
        return None
    rows = per_device * steps * subject.world_size
    return (
        rows,
        f"{per_device} a process × {steps} aggregated × {subject.processes}",
        'the trainer raises "The global train batch size … must be evenly divisible by the number of generations '
        'per prompt"',
    )


def _trl_rows(subject: Subject) -> Rows | None:
    """Rows that have to hold whole groups, by TRL's version: none up to 0.14, where a row is a prompt."""
    flat = subject.flat
    version, per_device = parse_version(subject.stack.versions["trl"]), flat.per_device_batch_size
    explicit = subject.count("generation_batch_size")
    if explicit is not None and version >= (0, 18):
        return explicit, "generation_batch_size", _refusal(explicit, flat.generations or 0)
    if per_device is None or version < (0, 15):
        return None
    rows = per_device * subject.world_size
    if version < (0, 17):
        return (
            rows,
            f"{per_device} a process × {subject.processes}",
            'TRL raises "The global train batch size … must be evenly divisible by the number of generations per '
            'prompt"',
        )
    steps = subject.count("steps_per_generation") or flat.gradient_accumulation_steps or 1
    if flat.batch_size is not None and flat.gradient_accumulation_steps is None:
        steps = subject.accumulation or 1
    rows *= steps
    return (
        rows,
        f"{per_device} a process × {subject.processes} × {steps} {'step' if steps == 1 else 'steps'}",
        _refusal(rows, flat.generations or 0),
    )


def _refusal(rows: int, generations: int) -> str:
    return f'TRL raises "generation_batch_size ({rows}) must be divisible by num_generations ({generations})"'


def _multiplied(subject: Subject) -> Iterator[Problem]:
    flat = subject.flat
    if subject.is_rlt or flat.method != "grpo" or flat.rollout not in (None, "hf"):
        return
    steps = subject.count("steps_per_generation") or flat.gradient_accumulation_steps or 1
    rows = flat.per_device_batch_size
    if not subject.stack.generates_whole_batch or steps < 2 or rows is None:
        return
    at = subject.written("steps_per_generation") or subject.place_of("gradient_accumulation_steps")
    yield Problem(
        at=at,
        key="" if at else "gradient_accumulation_steps",
        message=f"accumulation multiplies the rollout: {rows} rows × {steps} steps, {rows * steps}, are generated at "
        "once, with a KV cache for all of them",
        hint="accumulation does not lower this peak: set steps_per_generation to 1, or generate with vLLM",
    )


GROUP_RULES = (
    Rule(
        id="VP004",
        title="fewer than two completions a prompt",
        why="An advantage is a completion's reward against its group's mean; a group of one has none, and the trainer "
        "refuses it.",
        source="TRL 1.16.0 grpo_config.py __post_init__; RLT trainers/grpo.py 375-382 (possible values begin at 2)",
        wrong="num_generations: 1",
        right="num_generations: 2",
        check=_fewest,
    ),
    Rule(
        id="VP005",
        title="rollout rows that hold no whole groups",
        why="All completions of a prompt are generated in one rollout, over all processes. Where the group does not "
        "divide its rows, the constructor stops. Which rows count depends on the version of TRL.",
        source="RLT trainers/grpo.py 375-382; TRL 0.15.2 grpo_trainer.py 341-348; TRL 1.16.0 grpo_config.py "
        "(0.17 on: × accumulation; up to 0.14: a row is a prompt and has all its completions)",
        wrong="per_device_train_batch_size: 3\ngeneration_aggregation_steps: 12   # 36 rows\nnum_generations: 24",
        right="per_device_train_batch_size: 3\ngeneration_aggregation_steps: 16   # 48 rows\nnum_generations: 24",
        check=_groups,
    ),
    Rule(
        id="VP018",
        title="rollout rows multiplied by gradient accumulation",
        why="From TRL 0.17 on, one generate() makes the completions of the whole accumulation cycle. More "
        "accumulation lowers the training peak and raises this one.",
        source="TRL pull request 3283; issue 4511 (0.16 trained, 0.17 ran out of memory)",
        wrong="per_device_train_batch_size: 8\ngradient_accumulation_steps: 16",
        right="per_device_train_batch_size: 8\ngradient_accumulation_steps: 16\nsteps_per_generation: 1",
        severity=Severity.WARNING,
        check=_multiplied,
    ),
)
