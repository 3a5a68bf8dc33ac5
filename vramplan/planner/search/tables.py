"""Bytes that each phase of a run makes, for every point of a grid of sizes, from the formulas themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from vramplan.core.run import Lora, Sizes
from vramplan.formula.phases import PhasePlan, plan_own_phases, rollout_plans
from vramplan.formula.setting import Setting
from vramplan.formula.traced import Traced
from vramplan.planner.search.grid import Grid, SplitError, Values
from vramplan.planner.search.levels import peak_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """Sizes of many settings.

    Args:
        rows: of one forward, or of one rollout.
        prompt, completion: tokens of a row.
        ranks: LoRA ranks, or None where the run's own holds.
    """

    rows: Values
    prompt: Values
    completion: Values
    ranks: Values | None = None

    def __len__(self) -> int:
        """How many."""
        return len(self.rows)

    def only(self, mask: Values) -> Points:
        """Those that a mask or an index names."""
        ranks = None if self.ranks is None else self.ranks[mask]
        return Points(rows=self.rows[mask], prompt=self.prompt[mask], completion=self.completion[mask], ranks=ranks)


def own_peaks(setting: Setting, points: Points) -> dict[str, Values]:
    """For each phase but the rollout the bytes that it adds to what is resident, at its highest.

    Args:
        setting: the run; its sizes are replaced by the points'.
        points: `rows` are those of one forward.
    """

    def plans(part: Points) -> tuple[PhasePlan, ...]:
        def peak(traced: Traced) -> Grid:
            return Grid(peak_bytes(traced, len(part)))

        return plan_own_phases(at(setting, part, rollout=False), peak)  # type: ignore[arg-type]

    return _evaluate(points, plans)


def rollout_peaks(setting: Setting, points: Points) -> Values:
    """The bytes that a rollout adds to what is resident, at its highest; 0 where an engine makes the completions.

    Args:
        setting: the run; its sizes are replaced by the points'.
        points: `rows` are those of one rollout.
    """
    found = _evaluate(points, lambda part: rollout_plans(at(setting, part, rollout=True)))
    return found.get("rollout", np.zeros(len(points), dtype=np.int64))


def _evaluate(points: Points, plans: Callable[[Points], tuple[PhasePlan, ...]]) -> dict[str, Values]:
    found: dict[str, Values] = {}
    waiting = [np.arange(len(points))]
    while waiting:
        index = waiting.pop()
        part = points.only(index)
        try:
            made = plans(part)
        except SplitError as split:
            waiting += [index[split.mask], index[~split.mask]]
            continue
        for plan in made:
            values = found.setdefault(plan.name, np.zeros(len(points), dtype=np.int64))
            for one in plan.passes:
                values[index] = np.maximum(values[index], peak_bytes(one, len(part)))
    return found


def at(setting: Setting, points: Points, *, rollout: bool) -> Setting:
    """The setting with Grids for sizes: what the formulas take for ints."""
    rows = Grid(points.rows)
    sizes = Sizes(
        per_device_batch_size=1 if rollout else rows,  # type: ignore[arg-type]
        batch_size=None,
        num_generations=1,
        rollout_rows=rows if rollout else 0,  # type: ignore[arg-type]
        max_prompt_length=Grid(points.prompt),  # type: ignore[arg-type]
        max_completion_length=Grid(points.completion) if points.completion.any() else 0,  # type: ignore[arg-type]
    )
    run = replace(setting.run, sizes=sizes)
    training = run.training
    if points.ranks is not None and training is not None and training.lora is not None:
        lora = Lora(
            r=Grid(points.ranks),  # type: ignore[arg-type]
            target_modules=training.lora.target_modules,
            dtype=training.lora.dtype,
        )
        run = replace(run, training=replace(training, lora=lora))
    return replace(setting, run=run)
