"""The card of a training process: what torch and NVML say of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vramplan.catalog import find_gpu, profile_dirs
from vramplan.errors import UsageError
from vramplan.monitor.faults import NoDriverError, NvmlFault
from vramplan.monitor.nvml import Nvml, open_nvml
from vramplan.records.record import RecordGpu


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """The cards before this process had a CUDA context; empty where it had one already, or there is no driver."""

    used_bytes: Mapping[str, int] = field(default_factory=dict)


def look_at_idle_cards(*, has_context: bool) -> Idle:
    """Used memory of every card by UUID, if this process has nothing on one yet."""
    if has_context:
        return Idle()
    door = _door()
    if door is None:
        return Idle()
    try:
        return Idle(used_bytes={device.uuid: door.memory(device).used_bytes for device in door.devices()})
    except NvmlFault:
        return Idle()
    finally:
        door.close()


def describe_card(properties: Any, idle: Idle) -> RecordGpu:
    """The card.

    Args:
        properties: what torch.cuda.get_device_properties gives.
        idle: the cards before.
    """
    uuid = getattr(properties, "uuid", None)  # since torch 2.4
    name = f"GPU-{uuid}" if uuid is not None else None
    driver, total, baseline = None, None, None
    door = _door()
    if door is not None:
        try:
            driver = door.driver_version()
            device = next((one for one in door.devices() if name is not None and one.uuid == name), None)
            if device is not None:
                memory = door.memory(device)
                total = memory.total_bytes
                baseline = idle.used_bytes.get(device.uuid)
                if baseline is None:
                    own = [one.used_bytes for one in door.processes(device) if one.pid == os.getpid()]
                    baseline = memory.used_bytes - own[0] if own and own[0] is not None else None
        except NvmlFault:
            pass
        finally:
            door.close()
    return RecordGpu(
        name=properties.name,
        uuid=name,
        profile=_profile(properties.name),
        total_bytes=total,
        torch_total_bytes=int(properties.total_memory),
        driver=driver,
        compute_capability=f"{properties.major}.{properties.minor}",
        num_multiprocessors=int(properties.multi_processor_count),
        baseline_used_bytes=None if baseline is None else max(baseline, 0),
    )


def _door() -> Nvml | None:
    try:
        return open_nvml()
    except NoDriverError:
        return None


def _profile(name: str) -> str | None:
    try:
        return find_gpu(name, profile_dirs()).name
    except UsageError:
        return None
