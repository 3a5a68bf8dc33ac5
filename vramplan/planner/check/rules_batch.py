"""Rows that have to divide each other: what the trainers assert before the first step."""

from __future__ import annotations

from collections.abc import Iterator
from math import lcm

from vramplan.planner.check.finding import Problem
from vramplan.planner.check.rule import Rule
from vramplan.planner.check.subject import Subject


def _batch(subject: Subject) -> Iterator[Problem]:
    total, rows = subject.flat.batch_size, subject.flat.per_device_batch_size
    refusal = subject.refused_by("VP002")
    if rows is None and refusal is not None:  # against the trainer's default of rows
        at = subject.place_of("batch_size")
        yield Problem(at=at, key="" if at else "batch_size", message=refusal[0], hint=refusal[1])
    if total is None or rows is None or subject.flat.gradient_accumulation_steps is not None:
        return
    step = rows * subject.world_size
    if total % step:
        yield Problem(
            at=subject.place_of("batch_size"),
            key="" if subject.place_of("batch_size") else "batch_size",
            message=f"{total} completions an update are no multiple of {rows} rows × {subject.processes}: "
            + (
                f'train.py raises "train_batch_size must be divisible by per_device_batch*total_devices={step}"'
                if subject.is_rlt
                else "that makes no whole number of accumulation steps"
            ),
            hint=f"use a multiple of {step}",
        )


def _accumulation(subject: Subject) -> Iterator[Problem]:
    # Not the flat batch size: the reader leaves it out where the steps are given, as the trainer does.
    total, rows = subject.count("train_batch_size"), subject.flat.per_device_batch_size
    steps = subject.flat.gradient_accumulation_steps
    at = subject.place_of("gradient_accumulation_steps")
    if not subject.is_rlt or total is None or rows is None or steps is None or at is None:
        return
    actual = rows * subject.world_size * steps
    if actual != total:
        yield Problem(
            at=at,
            message=f"{rows} rows × {subject.processes} × {steps} steps make an update of {actual} "
            f"completions, not the {total} of the batch, which is not looked at once the steps are given",
            hint="leave the accumulation steps out: they follow from the batch",
        )


def _aggregation(subject: Subject) -> Iterator[Problem]:
    if not subject.is_rlt:
        return
    steps, accumulation = subject.count("generation_aggregation_steps"), subject.accumulation
    if steps is None or accumulation is None or accumulation % steps == 0:
        return
    divisors = ", ".join(str(one) for one in range(1, accumulation + 1) if accumulation % one == 0)
    yield Problem(
        at=subject.written("generation_aggregation_steps"),
        message=f"{accumulation} accumulation steps are no multiple of {steps}: the trainer asserts "
        "gradient_accumulation % generation_aggregation_steps == 0",
        hint=f"use one of {divisors}",
    )


def _rollout_rows(subject: Subject) -> int | None:
    """Rows that one process generates and keeps for several steps (RLT grpo.py 318-323)."""
    rows = subject.flat.per_device_batch_size
    return None if rows is None else rows * (subject.count("generation_aggregation_steps") or 1)


def _micro_batches(subject: Subject) -> Iterator[Problem]:
    rows = _rollout_rows(subject)
    steps, micro = subject.count("backprop_accumulation_steps"), subject.count("backprop_accumulation_micro_batch_size")
    if not subject.is_rlt or rows is None:
        return
    if steps is not None and micro is not None and rows // micro != steps:
        yield Problem(
            at=subject.written("backprop_accumulation_steps"),
            message=f"{rows} rows (per_device_train_batch_size × generation_aggregation_steps) // {micro} is "
            f"{rows // micro}, not {steps}: the trainer asserts that they are equal",
            hint=f"use {rows // micro}, or null: the steps follow from the micro-batch"
            if rows % micro == 0
            else "give one of the two, and null for the other",
            fixed=str(rows // micro) if rows % micro == 0 and rows >= micro else None,
        )
    elif (steps or micro) is not None and rows % (steps or micro or 1):
        key = "backprop_accumulation_steps" if steps is not None else "backprop_accumulation_micro_batch_size"
        yield Problem(
            at=subject.written(key),
            message=f"{rows} rows (per_device_train_batch_size × generation_aggregation_steps) are no multiple of "
            f"{steps or micro}: the trainer asserts it",
            hint=f"use a divisor of {rows}",
        )


def _generation_batch(subject: Subject) -> Iterator[Problem]:
    at = subject.written("generation_batch_size")
    batch, rows = subject.count("generation_batch_size"), subject.flat.per_device_batch_size
    if subject.is_rlt or subject.flat.method != "grpo" or at is None or batch is None:
        return
    if subject.count("steps_per_generation") is not None:
        yield Problem(
            at=at,
            message='both generation_batch_size and steps_per_generation are given: TRL raises "can not be both '
            'configured at the same time"',
            hint="give one of them",
        )
    elif rows is not None and batch % (rows * subject.world_size):
        yield Problem(
            at=at,
            message=f'TRL raises "generation_batch_size ({batch}) must be divisible by the global batch size '
            f'({rows * subject.world_size})"',
            hint=f"use a multiple of {lcm(rows * subject.world_size, subject.flat.generations or 1)}",
        )


BATCH_RULES = (
    Rule(
        id="VP002",
        title="batch not divisible by rows × processes",
        why="The trainer takes batch / (rows per process × processes) accumulation steps, and stops where that is no "
        "whole number.",
        source="RLT train.py 51-61, compute_accumulation_steps",
        wrong="train_batch_size: 96\nper_device_train_batch_size: 5",
        right="train_batch_size: 95\nper_device_train_batch_size: 5",
        check=_batch,
    ),
    Rule(
        id="VP040",
        title="accumulation steps not divisible by generation_aggregation_steps",
        why="RLT generates once for so many accumulation steps; a group that crosses an optimizer update has no "
        "meaning, and the constructor stops.",
        source="RLT trainers/grpo.py 309-311: assert gradient_accumulation % generation_aggregation_steps == 0",
        wrong="train_batch_size: 96             # 96 / 3 = 32 steps\nper_device_train_batch_size: 3\n"
        "generation_aggregation_steps: 12",
        right="train_batch_size: 96\nper_device_train_batch_size: 3\ngeneration_aggregation_steps: 16",
        check=_aggregation,
    ),
    Rule(
        id="VP041",
        title="backprop_accumulation_steps and its micro-batch disagree",
        why="Both are counted in rows of one rollout, which are per_device_train_batch_size × "
        "generation_aggregation_steps, not in rows of one forward.",
        source="RLT trainers/grpo.py 356-360: assert rows // micro_batch_size == backprop_accumulation_steps",
        wrong="per_device_train_batch_size: 3\ngeneration_aggregation_steps: 12\nbackprop_accumulation_steps: 2\n"
        "backprop_accumulation_micro_batch_size: 2",
        right="per_device_train_batch_size: 3\ngeneration_aggregation_steps: 12\nbackprop_accumulation_steps: 18\n"
        "backprop_accumulation_micro_batch_size: 2",
        check=_micro_batches,
    ),
    Rule(
        id="VP042",
        title="generation_batch_size that TRL refuses",
        why="A generation batch is whole global micro-batches; TRL derives it from steps_per_generation, or the other "
        "way round, but takes one of them only.",
        source="TRL 1.16.0 grpo_config.py __post_init__: generation_batch_size must be divisible by the global batch "
        "size; can not be both configured",
        wrong="per_device_train_batch_size: 8\ngeneration_batch_size: 20",
        right="per_device_train_batch_size: 8\ngeneration_batch_size: 24",
        check=_generation_batch,
    ),
    Rule(
        id="VP043",
        title="accumulation steps given beside a batch that they contradict",
        why="RLT derives the steps from train_batch_size only where gradient_accumulation_steps is missing; with both, "
        "an update holds another number of completions than the file says.",
        source="RLT train.py: accumulation steps are computed where OmegaConf.is_missing(gradient_accumulation_steps)",
        wrong="train_batch_size: 64\nper_device_train_batch_size: 2\ngradient_accumulation_steps: 16",
        right="train_batch_size: 64\nper_device_train_batch_size: 2",
        check=_accumulation,
    ),
)
