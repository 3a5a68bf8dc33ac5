"""A run's phases, from the real code on fake tensors and the real allocator's rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from vramplan.allocator.blocks import Block
from vramplan.allocator.caching import CachingAllocator
from vramplan.allocator.config import AllocatorConfig
from vramplan.allocator.oom import OutOfMemory
from vramplan.core.device import Gpu
from vramplan.core.report import Basis, Component, Entry, Phase
from vramplan.core.run import Run
from vramplan.core.stack import Stack
from vramplan.errors import CannotTellError
from vramplan.formula.estimate import settle
from vramplan.formula.outside import engine_entries, fragmentation_entry
from vramplan.formula.setting import runs_in_trainer, warms_up
from vramplan.program.components import live_components
from vramplan.program.device_kind import DeviceKind
from vramplan.program.logprobs import scoring_of
from vramplan.program.methods import micro_steps_per_update
from vramplan.program.older_loss import LogitsCode
from vramplan.program.oracle import trace
from vramplan.program.phase_names import empties_before, phase_of
from vramplan.program.trace import FakeTrace, Live
from vramplan.program.workload import Loop

_SOURCE = "the run's own code on fake tensors: transformers, peft, bitsandbytes and torch as installed"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfRoom:
    """Where the allocator would have thrown.

    Args:
        phase: in which phase.
        requested_bytes: what was asked for.
        allocated_bytes: what was alive.
        reserved_bytes: what segments held.
        alive: what held the memory, largest first.
    """

    phase: str
    requested_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    alive: tuple[Live, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """What a simulated run came to.

    Args:
        phases: in the order they first happen, each at its highest repetition.
        trace: every allocation and free.
        alive_at_peak: what is alive at the highest point, largest first.
        out_of_room: where a given capacity did not suffice, or None.
    """

    phases: tuple[Phase, ...]
    trace: FakeTrace
    alive_at_peak: tuple[Live, ...]
    out_of_room: OutOfRoom | None


@dataclass(slots=True)
class _Highest:
    """The highest moment of a phase."""

    allocated_bytes: int = -1
    reserved_bytes: int = 0
    event: int = 0


def simulate(
    run: Run,
    configs: Mapping[str, Mapping[str, Any]],
    *,
    gpu: Gpu,
    stack: Stack,
    loop: Loop | None = None,
    allocator: AllocatorConfig | None = None,
    capacity_bytes: int | None = None,
    num_layers: int | None = None,
    num_updates: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Simulation:
    """Runs `run` without a GPU.

    Args:
        run: what is done.
        configs: per role the parsed `config.json`.
        gpu: the card.
        stack: what the libraries' versions do, where the installed ones are not asked.
        loop: how the training loop is written; a trainer's for TRL's methods and where one is named, else a plain one.
        allocator: PyTorch's settings; its defaults without them.
        capacity_bytes: what the allocator may reserve, or None for as much as it wants.
        num_layers: take each model to have only that many layers.
        num_updates: optimizer updates to run; None for two, the second of which has all states alive.
        progress: is told what is being done.

    Raises:
        CannotTellError: several GPUs, or TRL's fused loss where no such trl is installed.
        UnsupportedArchitectureError: transformers cannot build the model.
        UsageError: it has no such attention, optimizer or modules to adapt.
    """
    if run.sharding.num_gpus > 1:
        raise CannotTellError(
            f"simulate runs one GPU, not {run.sharding.num_gpus}", hint="vramplan estimate divides states over GPUs"
        )
    loop = loop or default_loop(run, stack)
    tell = progress or (lambda _: None)
    tell("running the models on fake tensors")
    recorded = trace(
        configs[run.trained.name],
        run,
        configs=configs,
        device=device_kind(gpu),
        loop=loop,
        num_layers=num_layers,
        groups_heads=stack.sdpa_groups_heads,
        warms_up=warms_up(run, stack, in_trainer=loop.style == "trainer"),
        micro_steps=0 if num_updates is None else num_updates * micro_steps_per_update(run),
        logits_code=LogitsCode.of(stack),
        with_labels=True,
        scoring=scoring_of(stack, run.method),
    )
    recorded = replace(recorded, empties_before=empties_before(run.method))
    tell(f"replaying {len(recorded.events):,} events through the allocator")
    settings = allocator or AllocatorConfig()
    names, highest, _ = _replay(recorded, settings, None)
    # Again with the limit, so that the phases are whole even where the run would not get through them.
    failure = None if capacity_bytes is None else _replay(recorded, settings, capacity_bytes)[2]
    vocabularies = frozenset(_vocabulary(config) for config in configs.values())
    phases = [_phase(name, highest[name], recorded, run, gpu, vocabularies) for name in names if name in highest]
    top = max(highest.values(), key=lambda moment: moment.allocated_bytes, default=_Highest())
    return Simulation(
        phases=settle(phases),
        trace=recorded,
        alive_at_peak=tuple(recorded.live_at(top.event)),
        out_of_room=failure,
    )


def device_kind(gpu: Gpu) -> DeviceKind:
    """What the kernels ask of a card."""
    major, minor = gpu.compute_capability
    return DeviceKind(
        compute_capability=major * 10 + minor,
        num_sms=gpu.num_multiprocessors,
        cublas_workspace_bytes=gpu.cublas_workspace_bytes,
    )


def default_loop(run: Run, stack: Stack) -> Loop:
    """TRL's and the Trainer's loop drops outputs before the backward; a plain script keeps them through its step."""
    trainer = runs_in_trainer(run, stack)
    return Loop(style="trainer" if trainer else "step", clip=trainer, fp32_outputs=trainer)


def _vocabulary(config: Mapping[str, Any]) -> int:
    text = config.get("text_config")
    return int((text if isinstance(text, Mapping) else config)["vocab_size"])


def _replay(
    recorded: FakeTrace, config: AllocatorConfig, capacity_bytes: int | None
) -> tuple[list[str], dict[str, _Highest], OutOfRoom | None]:
    allocator = CachingAllocator(config, capacity_bytes)
    blocks: list[Block | None] = []
    names: list[str] = []
    highest: dict[str, _Highest] = {}
    for mark, begin, end in recorded.spans():
        name = phase_of(mark)
        if name not in names:
            names.append(name)
        moment = highest.setdefault(name, _Highest())
        if recorded.empties_cache_at(mark):
            allocator.empty_cache()
        for index in range(begin, end):
            event = recorded.events[index]
            if event < 0:
                block = blocks[-event - 1]
                assert block is not None
                allocator.free(block)
                blocks[-event - 1] = None
                continue
            try:
                blocks.append(allocator.malloc(event))
            except OutOfMemory:
                alive = tuple(recorded.live_at(index - 1)) if index else ()
                failure = OutOfRoom(
                    phase=name,
                    requested_bytes=event,
                    allocated_bytes=allocator.allocated_bytes,
                    reserved_bytes=allocator.reserved_bytes,
                    alive=alive,
                )
                return names, highest, failure
            if allocator.allocated_bytes > moment.allocated_bytes:
                moment.allocated_bytes, moment.event = allocator.allocated_bytes, index
            moment.reserved_bytes = max(moment.reserved_bytes, allocator.reserved_bytes)
        if moment.allocated_bytes < 0:  # a phase that allocates nothing, as a rollout elsewhere
            moment.allocated_bytes, moment.event = allocator.allocated_bytes, max(begin - 1, 0)
            moment.reserved_bytes = allocator.reserved_bytes
    return names, highest, None


def _phase(name: str, moment: _Highest, recorded: FakeTrace, run: Run, gpu: Gpu, vocabularies: frozenset[int]) -> Phase:
    alive = list(recorded.serials_at(moment.event))
    totals = live_components(recorded, alive, vocabularies)
    entries = [
        Entry(
            component=component,
            label="tensors",
            num_bytes=totals[component],
            basis=Basis.MODELLED,
            formula=f"{sum(totals.values()):,} B in {len(alive):,} tensors in all",
            source=_SOURCE,
        )
        for component in Component
        if totals[component]
    ]
    larger = moment.allocated_bytes - sum(totals.values())
    if larger:
        entries.append(
            Entry(
                component=Component.WORKSPACE,
                label="blocks larger than asked for",
                num_bytes=larger,
                basis=Basis.MODELLED,
                formula="free blocks are not split for a rest of 1 MiB or less",
                source="c10/cuda/CUDACachingAllocator.cpp should_split, vramplan/allocator",
            )
        )
    entries.append(fragmentation_entry(moment.reserved_bytes - moment.allocated_bytes))
    rollout = run.rollout
    awake = rollout is not None and (name in ("load", "rollout") or not rollout.sleep)
    entries += engine_entries(rollout, gpu, awake=awake)
    entries.append(
        Entry(
            component=Component.CONTEXT,
            label="CUDA context and libraries",
            num_bytes=gpu.context_bytes,
            basis=Basis.MEASURED if gpu.context_basis == "measured" else Basis.MODELLED,
            formula=f"{gpu.context_bytes:,} B on {gpu.label}",
            source=gpu.context_source,
        )
    )
    return Phase(name=name, entries=tuple(entries))
