"""From flat settings to a report by running the real code on fake tensors."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from vramplan.catalog.dirs import ProfileDirs
from vramplan.core.report import LiveTensors, MemoryReport, OutOfRoom
from vramplan.core.run import RolloutBackend, Run
from vramplan.errors import NoHardwareError, UsageError
from vramplan.formula.setting import Setting
from vramplan.planner.answer import load_model, prepare
from vramplan.planner.report_of import report_of
from vramplan.runfiles.flat import FlatRun

if TYPE_CHECKING:
    from vramplan.program.trace import FakeTrace, Live

NEEDED = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")
"""The packages of the extra `[torch]` that a simulation runs."""

MOST_LIVE = 50  # groups of tensors that a report lists; the rest are small
_LAYER = re.compile(r"\.\d+(?=\.|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """A simulation's report and the events that it comes from."""

    report: MemoryReport
    trace: FakeTrace


def simulate_run(
    flat: FlatRun,
    *,
    profile_dirs: ProfileDirs,
    run_id: str | None = None,
    capacity_bytes: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Simulated:
    """Simulate a run.

    Args:
        flat: its settings.
        profile_dirs: where profiles lie.
        run_id: the id to hand back.
        capacity_bytes: the card's memory, to find out where the allocator would throw; None does not try.
        progress: is told what is being done.

    Raises:
        NoHardwareError: the extra `[torch]` is not installed.
        VramplanError: a setting, a model or a card is not known, or the run cannot exist.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise NoHardwareError(
            f"simulate runs the real code and needs {', '.join(missing)}",
            hint="python3 -m pip install 'vramplan[torch]', or use `vramplan estimate`",
        )
    prepared = prepare(flat, profile_dirs)
    setting = prepared[0]
    room = None if capacity_bytes is None else _room_of_allocator(setting, capacity_bytes)
    configs = {
        role.name: load_model(role.model, profile_dirs, flat.architecture).source.config for role in setting.run.roles
    }
    # Imported here: torch and transformers take seconds to load, and an estimate must not wait for them.
    from vramplan.program.simulate import simulate

    found = simulate(
        as_autocast(setting), configs, gpu=setting.gpu, stack=setting.stack, capacity_bytes=room, progress=progress
    )
    report = report_of(flat, prepared, found.phases, how="simulate", profile_dirs=profile_dirs, run_id=run_id)
    failure = found.out_of_room
    report = replace(
        report,
        live_tensors=_merged(found.alive_at_peak),
        out_of_room=None
        if failure is None or room is None
        else OutOfRoom(
            capacity_bytes=room,
            phase=failure.phase,
            requested_bytes=failure.requested_bytes,
            allocated_bytes=failure.allocated_bytes,
            reserved_bytes=failure.reserved_bytes,
            live_tensors=_merged(failure.alive),
        ),
    )
    return Simulated(report=report, trace=found.trace)


def as_autocast(setting: Setting) -> Run:
    """The run, with autocast where it has something to cast (`Setting.autocast`)."""
    run = setting.run
    if run.training is None:
        return run
    return replace(run, training=replace(run.training, mixed_precision=setting.autocast(run.trained)))


def _room_of_allocator(setting: Setting, capacity_bytes: int) -> int:
    """What a card has left for torch's allocator once its context, and vLLM beside it, have theirs."""
    room = capacity_bytes - setting.gpu.context_bytes
    rollout = setting.run.rollout
    if rollout is not None and rollout.backend is RolloutBackend.VLLM_COLOCATE and not rollout.sleep:
        room -= rollout.engine_bytes(setting.gpu.total_bytes)
    if room <= 0:
        raise UsageError(
            f"--capacity leaves nothing beside the CUDA context of {setting.gpu.context_bytes:,} bytes",
            hint="give the card's memory: --capacity 85GB",
        )
    return room


def _merged(alive: Iterable[Live]) -> tuple[LiveTensors, ...]:
    """The same tensors of several layers as one group, `*` for the layer; largest groups first."""
    groups: Counter[LiveTensors] = Counter()
    for live in alive:
        label = live.label
        group = LiveTensors(
            num_bytes=live.num_bytes,
            count=1,
            module=_LAYER.sub(".*", label.module, count=1),
            operation=label.operation,
            source=label.source,
            shape=label.shape,
            dtype=label.dtype,
        )
        groups[group] += live.count
    merged = (replace(group, count=count) for group, count in groups.items())
    return tuple(sorted(merged, key=lambda one: -one.num_bytes * one.count)[:MOST_LIVE])
