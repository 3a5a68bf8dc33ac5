"""One look at all watched GPUs, at three paces: memory at every tick, the rest at most once a second, and the process
list slower still, because it costs 400 times a memory query and holds the driver's lock meanwhile.

(Medians on an RTX 4090 laptop with driver 610.57.04: running processes 4491 us, memory 11.6 us, utilisation 2.5 us;
MangoHud issue 2104.)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

from vramplan.monitor.faults import OK, NvmlFault
from vramplan.monitor.nvml import Nvml
from vramplan.monitor.process_tree import ProcessTree, is_running
from vramplan.monitor.sample import Device, GpuProcess, GpuSample, Memory

SLOW_SECONDS = 1.0
"""The driver averages utilisation over 1/6 to 1 s (nvidia-smi's help): asking faster brings no news."""
_FORGET_SECONDS = 60.0
"""A metric that is not supported is asked for again after this long: a driver's no is not always for ever."""
_LONGEST_BACKOFF_SECONDS = 30.0


class RowFormat(Protocol):
    """Asks the door for the cells of a row that needs more than memory."""

    def cells(self, door: Nvml, device: Device, memory: Memory | None, status: str, asked_ns: int) -> tuple[str, ...]:
        """The row's cells, in the asked order."""


class _DeviceState:
    """What is remembered of a device between ticks."""

    __slots__ = ("failures", "not_before", "retry_at", "status")

    def __init__(self) -> None:
        self.failures = 0
        self.retry_at = 0.0
        self.status = OK
        self.not_before: dict[str, float] = {}


class Sampler:
    """Asks the door for what is due. A fault of one GPU, or of one metric, leaves the others as they are.

    Args:
        door: NVML, started in the thread that samples.
        devices: what to look at.
        process_seconds: pace of the process list; None never asks for it.
        row_format: makes `nvidia-smi` cells; None for our own format.
    """

    def __init__(
        self,
        door: Nvml,
        devices: Sequence[Device],
        *,
        process_seconds: float | None,
        row_format: RowFormat | None = None,
    ) -> None:
        self._door = door
        self._devices = tuple(devices)
        self._process_seconds = process_seconds
        self._row_format = row_format
        self._states = {device: _DeviceState() for device in self._devices}
        self._next_slow = self._next_processes = 0.0

    def sample(self, tree: ProcessTree | None, *, everything: bool = False) -> tuple[GpuSample, ...]:
        """One sample a device; `everything` asks for the slow ones too, whatever their pace."""
        now = time.monotonic()
        slow = everything or now >= self._next_slow
        if slow:
            self._next_slow = now + SLOW_SECONDS * 0.95  # a 1 s interval that comes 1 ms early is still its turn
        processes = self._process_seconds is not None and (everything or now >= self._next_processes)
        if processes:
            self._next_processes = now + (self._process_seconds or 0.0) * 0.95
        return tuple(self._one(device, now, slow=slow, processes=processes, tree=tree) for device in self._devices)

    def _one(self, device: Device, now: float, *, slow: bool, processes: bool, tree: ProcessTree | None) -> GpuSample:
        state = self._states[device]
        asked_ns = time.time_ns()
        memory = self._memory(device, state, now)
        row_format, alive = self._row_format, memory is not None or state.status in ("not_supported", "no_permission")
        cells = row_format.cells(self._door, device, memory, state.status, asked_ns) if row_format is not None else ()
        slow = slow and alive and row_format is None
        listed = self._processes(device, state, now) if processes and alive else None
        utilization = self._metric(device, state, now, "nvmlDeviceGetUtilizationRates") if slow else None
        temperature = (
            self._metric(device, state, now, "nvmlDeviceGetTemperature", "NVML_TEMPERATURE_GPU") if slow else None
        )
        power = self._metric(device, state, now, "nvmlDeviceGetPowerUsage") if slow else None
        return GpuSample(
            device=device,
            status=state.status,
            memory=memory,
            gpu_percent=None if utilization is None else int(utilization.gpu),
            temperature_celsius=None if temperature is None else int(temperature),
            power_milliwatts=None if power is None else int(power),
            processes=listed,
            watched_bytes=_watched_bytes(listed, tree),
            cells=cells,
            asked_ns=asked_ns,
        )

    def _memory(self, device: Device, state: _DeviceState, now: float) -> Memory | None:
        if now < state.retry_at:
            return None
        try:
            try:
                memory = self._door.memory(device)
            except NvmlFault as fault:
                if fault.is_permanent:
                    raise
                self._door.reopen(device)
                memory = self._door.memory(device)
        except NvmlFault as fault:
            state.status = fault.status
            state.failures += 1
            if not fault.is_permanent and state.failures > 1:
                state.retry_at = now + min(_LONGEST_BACKOFF_SECONDS, 2.0 ** (state.failures - 2))
            return None
        state.status, state.failures, state.retry_at = OK, 0, 0.0
        return memory

    def _metric(self, device: Device, state: _DeviceState, now: float, function: str, *args: str) -> Any:
        if now < state.not_before.get(function, 0.0):
            return None
        try:
            return self._door.ask(device, function, *args)
        except NvmlFault as fault:
            if fault.is_permanent:
                state.not_before[function] = now + _FORGET_SECONDS
            return None

    def _processes(self, device: Device, state: _DeviceState, now: float) -> tuple[GpuProcess, ...] | None:
        if now < state.not_before.get("processes", 0.0):
            return None
        try:
            return self._door.processes(device)
        except NvmlFault as fault:
            if fault.is_permanent:
                state.not_before["processes"] = now + _FORGET_SECONDS
            return None


def _watched_bytes(listed: tuple[GpuProcess, ...] | None, tree: ProcessTree | None) -> int | None:
    """Bytes of the tree on one GPU: 0 only where the list was readable and none of its processes is of the tree."""
    if listed is None or tree is None:
        return None
    own = tree.members(process.pid for process in listed)
    if not own and any(not is_running(process.pid) for process in listed):
        return None  # pids of another namespace: whose they are cannot be told
    sizes = [process.used_bytes for process in listed if process.pid in own]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None
