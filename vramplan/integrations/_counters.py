"""What the allocator and the driver have counted, read without waiting for the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One look at the counters; peaks are since the last reset, the two `num_` since the process began."""

    allocated_bytes: int
    reserved_bytes: int
    end_allocated_bytes: int
    end_reserved_bytes: int
    num_alloc_retries: int
    num_ooms: int


class Counters(Protocol):
    """A device's counters."""

    def reset(self) -> None:
        """Begin a new peak."""

    def read(self) -> Reading | None:
        """The peaks since then, None where the device has no such counters."""

    def free_bytes(self) -> int | None:
        """Free memory of the card as the driver says, None where there is no card."""


class NoCounters:
    """A device that counts nothing, as the CPU."""

    def reset(self) -> None:
        """There is nothing to reset."""

    def read(self) -> Reading | None:
        """Nothing is known."""
        return None

    def free_bytes(self) -> int | None:
        """Nothing is known."""
        return None


class CudaCounters:
    """A CUDA device's. The allocator counts on the host when it is asked, so nothing has to be synchronised.

    Args:
        index: of the device in this process.
    """

    def __init__(self, index: int) -> None:
        import torch

        self._index = index
        self._cuda = torch.cuda

    def reset(self) -> None:
        """Begin a new peak: torch.cuda.max_memory_allocated() begins anew for everybody in this process."""
        self._cuda.reset_peak_memory_stats(self._index)

    def read(self) -> Reading:
        """One read of the allocator's statistics, nested: the flat ones are sorted first (torch/cuda/memory.py)."""
        stats = self._cuda.memory_stats_as_nested_dict(self._index)
        allocated, reserved = stats["allocated_bytes"]["all"], stats["reserved_bytes"]["all"]
        return Reading(
            allocated_bytes=allocated["peak"],
            reserved_bytes=reserved["peak"],
            end_allocated_bytes=allocated["current"],
            end_reserved_bytes=reserved["current"],
            num_alloc_retries=stats["num_alloc_retries"],
            num_ooms=stats["num_ooms"],
        )

    def free_bytes(self) -> int:
        """cudaMemGetInfo."""
        free, _ = self._cuda.mem_get_info(self._index)
        return int(free)
