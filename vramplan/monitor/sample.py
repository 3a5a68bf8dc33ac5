"""What one look at the GPUs gives: plain values, None for what the driver did not say."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One GPU, or one MIG instance of one.

    Args:
        index: NVML's index of the GPU; it can change at every boot.
        mig_index: the instance's index inside its GPU, None for a whole GPU.
        uuid: `GPU-…` or `MIG-…`; empty where the driver would not say.
        pci_bus_id: `00000000:0C:00.0`; an instance has its GPU's.
        name: the marketing name.
    """

    index: int
    mig_index: int | None = None
    uuid: str = ""
    pci_bus_id: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        """Indices count from zero."""
        if self.index < 0 or (self.mig_index is not None and self.mig_index < 0):
            raise ValueError("a GPU's index is never negative")

    @property
    def label(self) -> str:
        """`0` for a GPU and `0:1` for its MIG instance 1, as `nvidia-smi -i` spells them."""
        return str(self.index) if self.mig_index is None else f"{self.index}:{self.mig_index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The four numbers of a GPU's memory, in bytes.

    `reserved_bytes` is None where only version 1 of the call works: its `used_bytes` then includes what the driver
    keeps for itself (300 to 900 MiB on data-centre cards).
    """

    total_bytes: int
    used_bytes: int
    free_bytes: int
    reserved_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuProcess:
    """One process that holds memory of a GPU; `used_bytes` is None where the driver does not tell (WDDM, WSL)."""

    pid: int
    used_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSample:
    """One GPU at one tick.

    Args:
        device: which.
        status: `ok`, or why the memory cells are empty (see `faults.py`).
        memory: None where the driver gave none.
        gpu_percent: time a kernel ran in the driver's last sample period, 0 to 100.
        temperature_celsius: of the core.
        power_milliwatts: the whole board.
        processes: None on a tick at which the process list was not asked for.
        watched_bytes: what the watched process tree holds of it; None where it is not known at this tick.
        cells: a `nvidia-smi` row's cells, where that format is wanted.
        asked_ns: wall-clock time of the row, nanoseconds since 1970.
    """

    device: Device
    status: str
    memory: Memory | None = None
    gpu_percent: int | None = None
    temperature_celsius: int | None = None
    power_milliwatts: int | None = None
    processes: tuple[GpuProcess, ...] | None = None
    watched_bytes: int | None = None
    cells: tuple[str, ...] = ()
    asked_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """All GPUs at one moment.

    Args:
        number: counts the interval, so a jump in it is a gap.
        time_ns: wall clock, nanoseconds since 1970.
        elapsed_seconds: on the monotonic clock, since the logger started.
        samples: in NVML's order.
    """

    number: int
    time_ns: int
    elapsed_seconds: float
    samples: tuple[GpuSample, ...]
