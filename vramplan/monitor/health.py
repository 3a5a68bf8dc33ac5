"""What a machine's driver says of itself, and the lines of `vramplan doctor`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vramplan.monitor.faults import NoDriverError, NvmlFault
from vramplan.monitor.nvml import Nvml, open_nvml
from vramplan.monitor.sample import Device

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Args:
        id: a word that scripts may rely on: `driver`, `gpu.0`, `torch`, …
        state: `fail` is what measuring cannot do without.
        what: its name for people.
        detail: what was found.
        fix: what to do about it, or None where nothing is wrong.
    """

    id: str
    state: State
    what: str
    detail: str
    fix: str | None = None

    def __post_init__(self) -> None:
        """A failure without a fix would leave its reader alone."""
        if self.state == "fail" and not self.fix:
            raise ValueError(f"the failure {self.id} names no fix")


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A process that holds memory of a GPU.

    Args:
        pid: as the driver counts: of the host, where this is a container.
        name: of its program, or None where the driver does not say.
        used_bytes: or None where the driver does not say.
    """

    pid: int
    name: str | None
    used_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts:
    """One GPU or MIG instance, as NVML sees it.

    Args:
        label: `0`, or `0:1` for an instance.
        name: as the driver calls it, empty where it does not say.
        total_bytes: memory.total, or None.
        used_bytes: of all processes together, or None.
        holders: compute processes on it, largest first; empty where there are none, or the driver does not say.
        error: why there are no numbers, or None.
    """

    label: str
    name: str
    total_bytes: int | None
    used_bytes: int | None
    holders: tuple[Holder, ...]
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverFacts:
    """The driver.

    Args:
        version: as `nvidia-smi` prints it, or None.
        cuda: the newest CUDA (major, minor) that it runs, or None.
        gpus: in NVML's order.
        error: why NVML does not start, or None.
        hint: what to do about that, or None.
    """

    version: str | None
    cuda: tuple[int, int] | None
    gpus: tuple[GpuFacts, ...]
    error: str | None = None
    hint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What was found.

    Args:
        checks: in the order in which one needs the other.
        driver: what NVML says.
        versions: of each library, None where it is not installed.
        can_measure: whether nothing that measuring needs has failed.
        can_simulate: the same of simulating.
        can_log: the same of watching GPUs.
    """

    checks: tuple[Check, ...]
    driver: DriverFacts
    versions: Mapping[str, str | None]
    can_measure: bool
    can_simulate: bool
    can_log: bool

    @property
    def works(self) -> tuple[str, ...]:
        """Commands that would work, of those that need something of the machine."""
        commands = {"simulate": self.can_simulate, "log": self.can_log, "measure": self.can_measure}
        return ("estimate", *(name for name, works in commands.items() if works))


def look_at_driver() -> DriverFacts:
    """One look; a machine without a driver is an answer, not an error."""
    try:
        door = open_nvml()
    except NoDriverError as error:
        return DriverFacts(version=None, cuda=None, gpus=(), error=error.message, hint=error.hint)
    try:
        gpus = tuple(_gpu(door, device) for device in door.devices())
    except NvmlFault as fault:
        return DriverFacts(
            version=door.driver_version(), cuda=_cuda(door), gpus=(), error=f"NVML lists no GPUs: {fault.text}"
        )
    else:
        return DriverFacts(version=door.driver_version(), cuda=_cuda(door), gpus=gpus)
    finally:
        door.close()


def _cuda(door: Nvml) -> tuple[int, int] | None:
    try:
        number = int(door.call("nvmlSystemGetCudaDriverVersion_v2"))  # nvml.h: 1000 × major + 10 × minor
    except NvmlFault:
        return None
    return number // 1000, number % 1000 // 10


def _gpu(door: Nvml, device: Device) -> GpuFacts:
    try:
        memory = door.memory(device)
    except NvmlFault as fault:
        return GpuFacts(
            label=device.label,
            name=device.name,
            total_bytes=None,
            used_bytes=None,
            holders=(),
            error=fault.text,
        )
    return GpuFacts(
        label=device.label,
        name=device.name,
        total_bytes=memory.total_bytes,
        used_bytes=memory.used_bytes,
        holders=_holders(door, device),
        error=None,
    )


def _holders(door: Nvml, device: Device) -> tuple[Holder, ...]:
    try:
        found = door.processes(device)
    except NvmlFault:
        return ()
    holders = [Holder(pid=one.pid, name=_program(door, one.pid), used_bytes=one.used_bytes) for one in found]
    return tuple(sorted(holders, key=lambda one: -(one.used_bytes or 0)))


def _program(door: Nvml, pid: int) -> str | None:
    """The driver's own word: /proc has another process of this number where NVML counts outside a container."""
    try:
        name = door.call("nvmlSystemGetProcessName", pid)
    except NvmlFault:
        return None
    text = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
    return text.split(" ")[0].rpartition("/")[2] or None
