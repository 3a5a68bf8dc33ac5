"""What the caching allocator reserves: the whole run replayed, from loading to the second optimizer step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from vramplan.allocator.plain import PlainAllocator
from vramplan.allocator.sizes import SMALL_BYTES
from vramplan.core.run import Method, Quantization
from vramplan.dtypes import DType
from vramplan.formula.phases import PhasePlan
from vramplan.formula.setting import Setting, warms_up
from vramplan.formula.static import Static
from vramplan.formula.timeline import Blocks, Timeline
from vramplan.formula.weights import StoredWeight, bf16_modules
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
    timeline = Timeline(_loaded(_loadings(setting), _adapter_sizes(static)).copy())
    passes = {id(one): WholePass(one) for plan in plans for one in plan.passes}
    result = Reserved(load_temporary_bytes=largest_temporary(setting))
    _note(timeline, result, "load")
    (workspace, threads), *_ = static.workspace_sizes
    timeline.allocate(((workspace, 1),))
    if setting.run.training is None:
        _run_cycle(timeline, setting, static, plans, passes, result, again=False)
        return result
    for cycle in range(CYCLES):
        gradients = _run_cycle(timeline, setting, static, plans, passes, result, again=cycle > 0)
        timeline.begin_phase()
        if not cycle:
            timeline.allocate(((workspace, threads - 1),))
            timeline.allocate(static.state_sizes)
        kept = timeline.allocate(((static.kept_outputs_bytes, 1),))
        timeline.free(timeline.allocate(static.step_sizes))
        _note(timeline, result, "optimizer")
        timeline.free(kept)
        timeline.free(gradients)
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
        timeline.begin_phase()
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


class Loading(NamedTuple):
    """What decides how a role's weights reach the device.

    Args:
        stored: its parameters.
        warms_up: whether from_pretrained asks for the whole model first.
        upcasts: whether what ends in fp32 arrived in 16 bits.
        recasts: modules that were made fp32 as well, and go back to bf16 once there are adapters.
        buffer_bytes: of its buffers.
    """

    stored: tuple[StoredWeight, ...]
    warms_up: bool
    upcasts: bool
    recasts: frozenset[str]
    buffer_bytes: int


def _loadings(setting: Setting) -> tuple[Loading, ...]:
    return tuple(
        Loading(
            stored=setting.stored[role.name],
            warms_up=warms_up(setting.run, setting.stack, in_trainer=setting.trainer_named),
            upcasts=role.load.kbit_fp32_upcast and role.load.quantization.is_bitsandbytes and role.load.dtype.is_half,
            recasts=frozenset() if role.load.kbit_norms_only else bf16_modules(setting.models[role.name], role.load),
            buffer_bytes=0 if role.shares else setting.models[role.name].buffer_bytes,
        )
        for role in setting.run.roles
        if not role.offloaded
    )


def _adapter_sizes(static: Static) -> tuple[tuple[int, int], ...]:
    return tuple(static.trainable_sizes) if static.trains_adapters else ()


@lru_cache(maxsize=32)
def _loaded(roles: tuple[Loading, ...], adapters: tuple[tuple[int, int], ...]) -> PlainAllocator:
    """The allocator once all is loaded, to be copied. Kept, because the runs of a sweep load the same models."""
    timeline = Timeline()
    recast = [pair for role in roles for pair in _load(timeline, role)]
    timeline.allocate(_layer_by_layer(adapters))
    _replace(timeline, recast)
    return timeline.allocator


def _load(timeline: Timeline, role: Loading) -> list[tuple[Blocks, int]]:
    """Weights in the order of a checkpoint; a quantised one reaches the device in 16 bits first.

    Returns:
        What does not stay as it is, and the bytes that take its place.
    """
    if role.warms_up:
        _warm_up(timeline, role.stored)
    upcast: list[tuple[Blocks, int]] = []
    recast: list[int] = []
    for stored in _in_order(role.stored):
        if stored.state_bytes:
            source = timeline.allocate((size, 1) for size in _on_the_way(stored))
            timeline.allocate((size, 1) for size in (stored.data_bytes, *stored.state_bytes))
            timeline.free(source)
        elif role.upcasts and stored.dtype is DType.FP32:
            upcast.append((timeline.allocate(((stored.data_bytes // 2, 1),)), stored.data_bytes))
        elif role.upcasts and stored.weight.module in role.recasts:
            recast.append(len(upcast))
            upcast.append((timeline.allocate(((stored.data_bytes, 1),)), 2 * stored.data_bytes))
        else:
            timeline.allocate(((stored.data_bytes, 1),))
    whole = _replace(timeline, upcast)
    if role.buffer_bytes:
        timeline.allocate(((role.buffer_bytes, 1),))
    return [(whole[index], upcast[index][1] // 2) for index in recast]


def _replace(timeline: Timeline, pairs: list[tuple[Blocks, int]]) -> list[Blocks]:
    """Each tensor by one of other bytes, one after the other."""
    new: list[Blocks] = []
    for old, num_bytes in pairs:
        new.append(timeline.allocate(((num_bytes, 1),)))
        timeline.free(old)
    return new


def _in_order(stored: tuple[StoredWeight, ...]) -> Iterator[StoredWeight]:
    """Outside the layers first, then layer by layer; without those that ask the large pool for nothing."""
    layers: list[list[StoredWeight]] = []
    for one in stored:
        if max(one.data_bytes, *one.state_bytes, *_on_the_way(one)) <= SMALL_BYTES:
            continue
        if not one.weight.per_layer:
            yield one
            continue
        for index in range(one.weight.count):
            if index == len(layers):
                layers.append([])
            layers[index].append(one)
    for layer in layers:
        yield from layer


def _layer_by_layer(sizes: tuple[tuple[int, int], ...]) -> Iterator[tuple[int, int]]:
    deepest = max((count for _, count in sizes), default=0)
    for index in range(deepest):
        for num_bytes, count in sizes:
            if index < count:
                yield num_bytes, 1


def _warm_up(timeline: Timeline, stored: tuple[StoredWeight, ...]) -> None:
    """from_pretrained with a device map asks for the whole model first, without its scales, and gives it back.

    transformers 5.23 modeling_utils.py caching_allocator_warmup. The segment counts for the peak of loading and is
    given back here: the 61 reserved peaks measured on a T4 (fitcheck-llm 0.3.1) are 0.9 % off without it as the place
    where weights go, and 2.0 % off with it.
    """
    timeline.free(timeline.allocate(((sum(one.weight.count * one.data_bytes for one in stored), 1),)))
    timeline.allocator.empty_cache()


def _on_the_way(stored: StoredWeight) -> tuple[int, ...]:
    """16-bit copies of a weight that exist while it is quantised.

    The checkpoint's tensor, and for LLM.int8 an fp16 copy too, which comes back by way of the CPU (transformers 5.23
    integrations/bitsandbytes.py Bnb8bitQuantize; bitsandbytes nn/modules.py Int8Params._quantize).
    """
    half = stored.weight.num_elements * 2
    return (half, half) if stored.quantization is Quantization.INT8 else (half,)


def largest_temporary(setting: Setting) -> int:
    """Bytes of the largest matrix while it is quantised on the device, 0 without quantisation."""
    sizes = [
        sum(_on_the_way(stored))
        for role in setting.run.roles
        for stored in setting.stored[role.name]
        if stored.state_bytes
    ]
    return max(sizes, default=0)
