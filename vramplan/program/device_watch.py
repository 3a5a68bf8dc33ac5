"""Looks on while the phases of a run take place on a real device: each ends with the device's own counters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch

from vramplan.program.layers import NO_LAYER

_STANDARD_DEVIATION = 0.02  # initializer_range of most configs


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What a device's allocator has counted.

    Args:
        allocated_bytes: peak since the last reset.
        reserved_bytes: peak since the last reset.
        end_allocated_bytes: now.
        end_reserved_bytes: now.
        free_bytes: of the whole card, now, or None.
        num_alloc_retries: since the process began.
        num_ooms: since the process began.
    """

    allocated_bytes: int
    reserved_bytes: int
    end_allocated_bytes: int
    end_reserved_bytes: int
    free_bytes: int | None
    num_alloc_retries: int
    num_ooms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The last request that the allocator threw for.

    Args:
        requested_bytes: what was asked for, None where nobody said.
        allocated_bytes: what tensors held.
        reserved_bytes: what segments held.
        has_snapshot: whether the snapshot file was written.
    """

    requested_bytes: int | None
    allocated_bytes: int
    reserved_bytes: int
    has_snapshot: bool


class Counters(Protocol):
    """A device's allocator, as seen from outside. Entered around everything that is counted."""

    device: torch.device

    def describe(self) -> Mapping[str, Any]:
        """The card, once it has a context: keys of RecordGpu."""

    def synchronize(self) -> None:
        """Waits for the device."""

    def read(self) -> Counts:
        """The counters."""

    def reset_peaks(self) -> None:
        """Peaks count from here on."""

    def empty_cache(self) -> None:
        """Gives cached segments back."""

    def refusal(self) -> Refusal:
        """Where the allocator threw last."""

    def __enter__(self) -> Any:
        """Counting begins."""

    def __exit__(self, *_: object) -> Any:
        """Counting ends."""


class DeviceWatch:
    """A watch of the phases on a real device.

    Args:
        counters: of the device.
        tell: takes one event, as plain values, each time something is known.
        empties: marks, without their numbers, at which the run empties the allocator's cache.
        settle_seconds: rest after each phase.
        vocabulary_size: token ids are below it.
    """

    is_real = True

    def __init__(
        self,
        counters: Counters,
        tell: Callable[[Mapping[str, Any]], None],
        *,
        empties: frozenset[str],
        settle_seconds: float,
        vocabulary_size: int,
    ) -> None:
        self.device = counters.device
        self.owner = ""
        self.layer_index = NO_LAYER
        self.phase: str | None = None
        self._counters = counters
        self._tell = tell
        self._empties = empties
        self._settle_seconds = settle_seconds
        self._vocabulary_size = vocabulary_size
        self._begin = 0.0
        self._before: Counts | None = None

    def mark(self, phase: str) -> None:
        """A phase begins, and with it the one before has ended."""
        self.close()
        if phase in self._empties:
            self._counters.empty_cache()
        self._counters.synchronize()
        self._counters.reset_peaks()
        self._before = self._counters.read()
        self._begin = time.monotonic()
        self.phase = phase
        self._tell({"event": "mark", "phase": phase, "time": self._begin})

    def close(self) -> None:
        """The running phase has ended."""
        if self.phase is None or self._before is None:
            return
        self._counters.synchronize()
        now = time.monotonic()
        counts = self._counters.read()
        time.sleep(self._settle_seconds)
        self._tell(
            {
                "event": "phase",
                "phase": self.phase,
                "begin": self._begin,
                "end": now,
                "settled": time.monotonic(),
                **asdict(counts),
                "num_alloc_retries": counts.num_alloc_retries - self._before.num_alloc_retries,
                "num_ooms": counts.num_ooms - self._before.num_ooms,
            }
        )
        self.phase = None

    @contextmanager
    def starting_engine(self) -> Iterator[None]:
        """A stretch of `load` in which a rollout engine is built, and what torch's counters hold of it from then on.

        vLLM empties the cache before it looks at the card, and resets the peaks while it sizes its own: so the stretch
        is one of its own, and what loading took before is not lost with them.
        """
        self.mark("load.engine")
        self._counters.empty_cache()
        before = self._counters.read()
        yield
        self._counters.synchronize()
        after = self._counters.read()
        self._tell(
            {
                "event": "engine",
                "allocated_bytes": max(after.end_allocated_bytes - before.end_allocated_bytes, 0),
                "reserved_bytes": max(after.end_reserved_bytes - before.end_reserved_bytes, 0),
            }
        )

    def fill(self, tensor: Any) -> None:
        """Random values, in place: the kernels that make them allocate nothing."""
        with torch.no_grad():
            if tensor.dtype is torch.int64:
                tensor.random_(0, self._vocabulary_size)
            elif tensor.is_floating_point() and tensor.element_size() > 1:
                tensor.normal_(0, _STANDARD_DEVIATION)
            else:
                tensor.zero_()

    def watch_model(self, model: Any, name: str, units: Any) -> None:
        """Counters do not ask whose tensors they count."""

    @contextmanager
    def on_host(self) -> Iterator[None]:
        """A real device knows where its tensors are."""
        yield

    @contextmanager
    def optimizing(self) -> Iterator[None]:
        """Counters do not ask what tensors are."""
        yield

    def enter_layer(self, layer: int) -> None:
        """Counters do not ask for layers."""

    def leave_layers(self) -> None:
        """Counters do not ask for layers."""

    def own(self, tensors: Iterable[Any], owner: str) -> None:
        """Counters do not ask what tensors are."""

    def own_activations(self, owner: str) -> None:
        """Counters do not ask what tensors are."""
