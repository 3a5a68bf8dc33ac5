"""Rows, generations and accumulation steps that a trainer takes, and the best of those that need the same memory."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from vramplan.core.stack import Stack
from vramplan.planner.preference import Preference
from vramplan.planner.search.grid import Values
from vramplan.planner.sizes import forward_rows, generated_rows
from vramplan.planner.space import Space
from vramplan.planner.trainer_rules import refusal

MAX_ROWS = 64
"""Rows of one forward beyond which nothing is searched, though anything given is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Sizes that do not depend on what is loaded.

    Args:
        per_device: what `per_device_batch_size` says.
        generations: completions a prompt.
        accumulation: micro-batches an update, or None where nothing trains.
        rows: of one forward.
        rollout_rows: of one rollout.
        score: how much it is wanted.
    """

    per_device: int
    generations: int
    accumulation: int | None
    rows: int
    rollout_rows: int
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """The batches of a space, as arrays over rows × rollout rows.

    Args:
        rows: of a forward, ascending.
        rollout_rows: of a rollout, ascending.
        best: for accumulation off and on, the best batch for each pair, or None where there is none.
        scores: for accumulation off and on, theirs; minus infinity where there is none.
        num_accepted: batches that the trainer takes.
        refused: what it says of the first that it does not take, or None.
    """

    rows: tuple[int, ...]
    rollout_rows: tuple[int, ...]
    best: dict[bool, list[list[Batch | None]]]
    scores: dict[bool, Values]
    num_accepted: int
    refused: str | None


def batches_of(space: Space, stack: Stack, num_gpus: int, preference: Preference) -> Batches:
    """Every batch of a space that the stack's trainer takes."""
    accepted: list[Batch] = []
    refused: str | None = None
    for per_device, generations in itertools.product(space.per_device, space.generations):
        for accumulation in _accumulations(space, per_device * num_gpus):
            why = refusal(
                space.method,
                stack,
                per_device=per_device,
                generations=generations,
                accumulation=accumulation or 1,
                num_gpus=num_gpus,
            )
            if why is not None:
                refused = refused or why
                continue
            batch = _batch(space, stack, preference, num_gpus, per_device, generations, accumulation)
            if batch.rows <= MAX_ROWS or len(space.per_device) == len(space.generations) == 1:
                accepted.append(batch)
    rows = tuple(sorted({batch.rows for batch in accepted}))
    rollout_rows = tuple(sorted({batch.rollout_rows for batch in accepted}))
    shape = len(rows), len(rollout_rows)
    best: dict[bool, list[list[Batch | None]]] = {}
    scores: dict[bool, Values] = {}
    for accumulates in (False, True):
        table: list[list[Batch | None]] = [[None] * shape[1] for _ in range(shape[0])]
        values = np.full(shape, -np.inf)
        for batch in accepted:
            if ((batch.accumulation or 1) > 1) is not accumulates:
                continue
            place = rows.index(batch.rows), rollout_rows.index(batch.rollout_rows)
            if batch.score > values[place]:
                values[place], table[place[0]][place[1]] = batch.score, batch
        best[accumulates], scores[accumulates] = table, values
    return Batches(
        rows=rows, rollout_rows=rollout_rows, best=best, scores=scores, num_accepted=len(accepted), refused=refused
    )


def _accumulations(space: Space, step: int) -> tuple[int | None, ...]:
    if not space.accumulation:
        return (None,)
    if space.batch_size is None:
        return space.accumulation
    if space.batch_size % step or (len(space.accumulation) == 1 and space.batch_size != step * space.accumulation[0]):
        return ()
    return (space.batch_size // step,)


def _batch(
    space: Space,
    stack: Stack,
    preference: Preference,
    num_gpus: int,
    per_device: int,
    generations: int,
    accumulation: int | None,
) -> Batch:
    method, steps = space.method, accumulation or 1
    rows = forward_rows(method, stack, per_device, generations)
    update = None if accumulation is None else rows * num_gpus * steps
    return Batch(
        per_device=per_device,
        generations=generations,
        accumulation=accumulation,
        rows=rows,
        rollout_rows=generated_rows(method, stack, per_device, generations, steps),
        score=preference.batches(rows, generations, update),
    )
