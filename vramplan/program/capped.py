"""A CPU that counts as a card does: each storage is a block of the caching allocator's model, which can be full."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vramplan.allocator.config import AllocatorConfig
from vramplan.allocator.oom import OutOfMemory
from vramplan.allocator.recording import Recorder as BlockRecorder
from vramplan.allocator.snapshot_writer import write_snapshot
from vramplan.program.device_watch import Counts, Refusal
from vramplan.units import MiB


class CappedCpu(TorchDispatchMode):  # type: ignore[misc]
    """Counters of a device that is none, for tests of everything around one.

    Args:
        capacity_bytes: what its allocator may reserve, None for as much as it wants.
        config: the allocator's settings.
        snapshot: where to write a memory snapshot when the allocator throws, or None.
    """

    def __init__(self, capacity_bytes: int | None, config: AllocatorConfig, snapshot: str | None = None) -> None:
        super().__init__()
        self.device = torch.device("cpu")
        self._capacity_bytes = capacity_bytes
        self._recorder = BlockRecorder(config, capacity_bytes)
        self._alive: dict[int, Any] = {}
        self._snapshot = snapshot
        self._num_ooms = 0
        self._last: Refusal | None = None
        self._peak_allocated_bytes = self._peak_reserved_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operator and counts the storages of its outputs."""
        result = func(*args, **(kwargs or {}))
        for item in tree_leaves(result):
            if isinstance(item, torch.Tensor) and item.device.type == "cpu":
                self._note(item.untyped_storage())
        return result

    def _note(self, storage: Any) -> None:
        key, num_bytes = storage._cdata, storage.nbytes()
        if key in self._alive or num_bytes == 0:
            return
        allocator = self._recorder.allocator
        try:
            block = self._recorder.malloc(num_bytes)
        except OutOfMemory as error:
            self._num_ooms += 1
            self._refuse(error)
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {num_bytes / MiB:.2f} MiB. (a CPU with a limit, for tests)"
            ) from error
        self._peak_allocated_bytes = max(self._peak_allocated_bytes, allocator.allocated_bytes)
        self._peak_reserved_bytes = max(self._peak_reserved_bytes, allocator.reserved_bytes)

        def free(_: Any, key: int = key, block: Any = block) -> None:
            del self._alive[key]
            self._recorder.free(block)

        self._alive[key] = weakref.ref(storage, free)

    def _refuse(self, error: OutOfMemory) -> None:
        has_snapshot = False
        if self._snapshot is not None:
            with contextlib.suppress(OSError):  # the out-of-memory is the result, with a snapshot or without
                write_snapshot(self._recorder.snapshot(), Path(self._snapshot))
                has_snapshot = True
        self._last = Refusal(
            requested_bytes=error.requested_bytes,
            allocated_bytes=error.allocated_bytes,
            reserved_bytes=error.reserved_bytes,
            has_snapshot=has_snapshot,
        )

    def describe(self) -> Mapping[str, Any]:
        """No card."""
        return {"name": "cpu", "total_bytes": self._capacity_bytes, "backend": "cpu"}

    def synchronize(self) -> None:
        """A CPU has nothing pending."""

    def read(self) -> Counts:
        """The model's counters."""
        allocator = self._recorder.allocator
        free_bytes = None if self._capacity_bytes is None else self._capacity_bytes - allocator.reserved_bytes
        return Counts(
            allocated_bytes=self._peak_allocated_bytes,
            reserved_bytes=self._peak_reserved_bytes,
            end_allocated_bytes=allocator.allocated_bytes,
            end_reserved_bytes=allocator.reserved_bytes,
            free_bytes=free_bytes,
            num_alloc_retries=allocator.num_retries,
            num_ooms=self._num_ooms,
        )

    def reset_peaks(self) -> None:
        """Peaks start from what is held now."""
        self._peak_allocated_bytes = self._recorder.allocator.allocated_bytes
        self._peak_reserved_bytes = self._recorder.allocator.reserved_bytes

    def empty_cache(self) -> None:
        """Gives the model's cached segments back."""
        self._recorder.empty_cache()

    def refusal(self) -> Refusal:
        """Where the model threw last; what is held now where it never did."""
        counts = self.read()
        return self._last or Refusal(
            requested_bytes=None,
            allocated_bytes=counts.end_allocated_bytes,
            reserved_bytes=counts.end_reserved_bytes,
            has_snapshot=False,
        )
