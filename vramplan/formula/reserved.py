"""What the caching allocator reserves: the whole run replayed, from loading to the second optimizer step."""

from __future__ import annotations

from dataclasses import dataclass, field

from vramplan.core.run import Method
from vramplan.formula.loading import largest_temporary, with_adapters
from vramplan.formula.phases import PhasePlan
from vramplan.formula.setting import Setting
from vramplan.formula.static import Static, kept_outputs_bytes
from vramplan.formula.timeline import Blocks, Timeline
from vramplan.formula.whole import WholePass


@dataclass(slots=True, kw_only=True)
class Reserved:
    """Segments held beyond tensors, by phase.

    Args:
        load_temporary_bytes: the largest matrix while it is quantised on the device, 0 without quantisation.
        reserved: for each phase the most that the allocator held in it.
        allocated: for each phase the most that tensors held in the same replay.
    """

    load_temporary_bytes: int
    reserved: dict[str, int] = field(default_factory=dict)
    allocated: dict[str, int] = field(default_factory=dict)

    def fragmentation_bytes(self, phase: str) -> int:
        """Segment bytes that no tensor of the phase uses at its peak, cached ones of earlier phases among them."""
        return self.reserved[phase] - self.allocated[phase]


CYCLES = 2
"""Optimizer states appear in the first step: the second cycle is the first that shows the run's full need."""

STEADY = frozenset({"train", "optimizer"})
"""Phases that are read in the last cycle; the others before training has cached what they would be shown to hold."""


def reserve(setting: Setting, static: Static, plans: tuple[PhasePlan, ...]) -> Reserved:
    """Replay a run.

    Args:
        setting: the run.
        static: sizes of what outlives phases.
        plans: the phases of one cycle.
    """
    timeline = Timeline(with_adapters(static.loaded, static.trainable_sizes if static.trains_adapters else ()))
    passes = {id(one): WholePass(one) for plan in plans for one in plan.passes}
    result = Reserved(load_temporary_bytes=largest_temporary(setting))
    _note(timeline, result, "load")
    (workspace, threads), *_ = static.workspace_sizes
    timeline.allocate(((workspace, 1),))
    for cycle in range(1 if setting.run.training is None else CYCLES):
        gradients = _run_cycle(timeline, setting, static, plans, passes, result, again=cycle > 0)
        if setting.run.training is None:
            break
        timeline.allocator.reset_peaks()
        if not cycle:
            timeline.allocate(((workspace, threads - 1),))
            timeline.allocate(static.state_sizes)
        kept = timeline.allocate(((kept_outputs_bytes(setting), 1),))
        timeline.free(timeline.allocate(static.step_sizes))
        _note(timeline, result, "optimizer")
        timeline.free(kept)
        timeline.free(gradients)
    timeline.allocator.close()
    return result


def _run_cycle(
    timeline: Timeline,
    setting: Setting,
    static: Static,
    plans: tuple[PhasePlan, ...],
    passes: dict[int, WholePass],
    result: Reserved,
    *,
    again: bool,
) -> Blocks:
    # RLT trainers/grpo.py and teacher_rewards.py empty the cache after generating, scoring and each forward.
    empties = setting.run.method is Method.RLT
    gradients: Blocks = []
    for plan in plans:
        if plan.name not in STEADY and plan.name in result.reserved:
            continue
        timeline.allocator.reset_peaks()
        visitors = timeline.allocate(static.weight_sizes(plan.role)) if plan.role.offloaded else []
        if plan.gradients_alive and not gradients:
            gradients = timeline.allocate(static.gradient_sizes)
        for one in plan.passes:
            gradients += passes[id(one)].play(timeline.allocator, again=again and not empties)
        timeline.free(visitors)
        _note(timeline, result, plan.name)
        if empties:
            timeline.allocator.empty_cache()
    return gradients


def _note(timeline: Timeline, result: Reserved, phase: str) -> None:
    if phase in STEADY or phase not in result.reserved:
        result.reserved[phase] = timeline.allocator.peak_reserved_bytes
        result.allocated[phase] = timeline.allocator.peak_allocated_bytes
