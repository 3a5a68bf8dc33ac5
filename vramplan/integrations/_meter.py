"""Peaks by phase from a device's counters: one read at the end of each phase, and no thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from vramplan.integrations._counters import Counters, Reading
from vramplan.records.record import RecordPhase


@dataclass(slots=True)
class _Phase:
    """The highest of what a phase came to so far."""

    num_repeats: int = 0
    seconds: float | None = None
    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    free_bytes: int | None = None
    end: Reading | None = None
    num_alloc_retries: int = 0
    num_ooms: int = 0


class Meter:
    """Phases of one device.

    Args:
        counters: the device's.
        used_by_free: used memory of the card from its free memory, both as the driver says.
        clock: seconds.
    """

    def __init__(
        self,
        counters: Counters,
        *,
        used_by_free: Callable[[int], int] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._counters, self._used_by_free, self._clock = counters, used_by_free, clock
        self._phases: dict[str, _Phase] = {}
        self._began = clock()
        self._retries, self._ooms = 0, 0
        self.current: str | None = None

    def begin(self, name: str, *, is_sure: bool = True) -> None:
        """A phase begins: its peaks, and its time; unless `is_sure`, it may turn out that none did."""
        self.current = name if is_sure else None
        self._counters.reset()
        self._began = self._clock()

    def end(self, name: str, *, is_timed: bool = True) -> None:
        """The phase ends: what it came to is kept where it is higher than before."""
        seconds = self._clock() - self._began
        phase = self._phases.setdefault(name, _Phase())
        phase.num_repeats += 1
        phase.seconds = (phase.seconds or 0.0) + seconds if is_timed else None
        self.current = None
        reading = self._counters.read()
        if reading is None:
            return
        phase.num_alloc_retries += reading.num_alloc_retries - self._retries
        phase.num_ooms += reading.num_ooms - self._ooms
        self._retries, self._ooms = reading.num_alloc_retries, reading.num_ooms
        phase.end = reading
        phase.allocated_bytes = max(phase.allocated_bytes or 0, reading.allocated_bytes)
        if phase.reserved_bytes is None or reading.reserved_bytes > phase.reserved_bytes:
            # The card's used memory moves with segments: the driver is asked only where they grew.
            phase.reserved_bytes = reading.reserved_bytes
            phase.free_bytes = self._counters.free_bytes()

    def phases(self) -> tuple[RecordPhase, ...]:
        """The phases that ended, in the order in which they first did."""
        return tuple(self._record(name, phase) for name, phase in self._phases.items())

    def _record(self, name: str, phase: _Phase) -> RecordPhase:
        end = phase.end
        if end is None:  # a device that counts nothing: null, never 0
            return RecordPhase(
                name=name,
                allocated_bytes=None,
                reserved_bytes=None,
                device_used_bytes=None,
                seconds=phase.seconds,
                num_repeats=phase.num_repeats,
            )
        free = phase.free_bytes
        return RecordPhase(
            name=name,
            allocated_bytes=phase.allocated_bytes,
            reserved_bytes=phase.reserved_bytes,
            device_used_bytes=None if free is None or self._used_by_free is None else self._used_by_free(free),
            free_bytes=free,
            end_allocated_bytes=end.end_allocated_bytes,
            end_reserved_bytes=end.end_reserved_bytes,
            num_alloc_retries=phase.num_alloc_retries,
            num_ooms=phase.num_ooms,
            seconds=phase.seconds,
            num_repeats=phase.num_repeats,
        )
