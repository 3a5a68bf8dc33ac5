"""A CUDA device's own counters: torch's peaks, which are exact, and where its allocator threw."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from vramplan.errors import NoHardwareError
from vramplan.program.device_watch import Counts, Refusal
from vramplan.units import GiB, KiB, MiB

_MOST_TRACE_ENTRIES = 100_000  # of a snapshot's history: what happened last
_ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+) (bytes|KiB|MiB|GiB)")
_UNITS = {"bytes": 1, "KiB": KiB, "MiB": MiB, "GiB": GiB}


class CudaCounters:
    """The first visible CUDA device, with a context of its own from here on.

    Args:
        snapshot: where to write a memory snapshot when the allocator throws, or None.

    Raises:
        NoHardwareError: torch reaches no such device.
    """

    def __init__(self, snapshot: str | None = None) -> None:
        try:
            torch.cuda.init()
            self.device = torch.device("cuda", 0)
            torch.cuda.set_device(self.device)
            torch.cuda.synchronize()  # makes the context
        except (RuntimeError, AssertionError) as error:  # an assertion in builds without CUDA
            raise NoHardwareError(
                f"torch {torch.__version__} reaches no GPU: {first_line(error)}", hint="use `vramplan simulate`"
            ) from error
        self._snapshot = snapshot
        self._last: Refusal | None = None

    def __enter__(self) -> CudaCounters:
        """Looks out for requests that the allocator throws for."""
        if self._snapshot is not None:
            torch.cuda.memory._record_memory_history("all", stacks="python", max_entries=_MOST_TRACE_ENTRIES)
        # torch/csrc/cuda/Module.cpp: called with (device, bytes asked for, bytes allocated, bytes free) once the
        # allocator has given its cache back and still has no room, before it throws; its lock is not held then.
        attach = getattr(torch._C, "_cuda_attach_out_of_memory_observer", None)
        if attach is not None:  # a private name: without it the error's own words say what was asked for
            attach(self._observe)
        return self

    def __exit__(self, *_: object) -> None:
        """There is no way to take an observer away: it lives as long as the process."""

    def _observe(self, _device: int, requested_bytes: int, _allocated: int, _free: int) -> None:
        self._last = self._held(requested_bytes, has_snapshot=False)
        if self._snapshot is not None:
            # What is raised here takes the place of the out-of-memory itself, and a full disk must not.
            with contextlib.suppress(OSError, RuntimeError, MemoryError):
                torch.cuda.memory._dump_snapshot(self._snapshot)
                self._last = replace(self._last, has_snapshot=True)

    def _held(self, requested_bytes: int | None, *, has_snapshot: bool) -> Refusal:
        return Refusal(
            requested_bytes=requested_bytes,
            allocated_bytes=torch.cuda.memory_allocated(),
            reserved_bytes=torch.cuda.memory_reserved(),
            has_snapshot=has_snapshot,
        )

    def describe(self) -> Mapping[str, Any]:
        """The card as torch sees it."""
        properties = torch.cuda.get_device_properties(self.device)
        return {
            "name": properties.name,
            "torch_total_bytes": properties.total_memory,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "num_multiprocessors": properties.multi_processor_count,
            "backend": torch.cuda.get_allocator_backend(),
        }

    def synchronize(self) -> None:
        """Waits for every kernel."""
        torch.cuda.synchronize()

    def read(self) -> Counts:
        """torch.cuda's counters, and what the driver has free."""
        statistics = torch.cuda.memory_stats()
        return Counts(
            allocated_bytes=torch.cuda.max_memory_allocated(),
            reserved_bytes=torch.cuda.max_memory_reserved(),
            end_allocated_bytes=torch.cuda.memory_allocated(),
            end_reserved_bytes=torch.cuda.memory_reserved(),
            free_bytes=torch.cuda.mem_get_info()[0],
            num_alloc_retries=int(statistics.get("num_alloc_retries", 0)),
            num_ooms=int(statistics.get("num_ooms", 0)),
        )

    def reset_peaks(self) -> None:
        """Peaks start from what is held now."""
        torch.cuda.reset_peak_memory_stats()

    def empty_cache(self) -> None:
        """Gives cached segments back to the driver."""
        torch.cuda.empty_cache()

    def refusal(self) -> Refusal:
        """What the observer saw; what is held now where it was never called."""
        return self._last or self._held(None, has_snapshot=False)


def asked_for(message: str) -> int | None:
    """The size in torch's out-of-memory message, rounded as it is there, or None."""
    match = _ASKED.search(message)
    return None if match is None else int(float(match[1]) * _UNITS[match[2]])


def first_line(error: object) -> str:
    """The first line of an error that says something, without a full stop; its kind where none does."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next(filter(None, lines), type(error).__name__).rstrip(".")
