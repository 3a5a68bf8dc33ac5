"""A card looked at from outside while another process works on it: what NVML shows as used, in a thread of its own.

The measuring process says when each of its phases began and ended, on the clock that both share (CLOCK_MONOTONIC counts
for the whole machine), so that samples are put to phases afterwards. A process that is killed loses none of them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from vramplan.errors import UsageError
from vramplan.monitor.devices import cuda_ordinals
from vramplan.monitor.faults import NvmlFault
from vramplan.monitor.nvml import Nvml
from vramplan.monitor.sample import Device

INTERVAL_SECONDS = 0.005
"""A memory query takes some 12 us (monitor/sampler.py)."""
SETTLE_SECONDS = 10 * INTERVAL_SECONDS
"""A phase rests that long at its end, to be seen by a thread that shares its interpreter with a simulation."""


class Sight(Protocol):
    """Reads one number of a card."""

    def used_bytes(self) -> int | None:
        """Used memory of the whole card, or None where it cannot be read just now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """The card that is looked at.

    Args:
        name: as the driver calls it.
        uuid: or None where the driver would not say.
        total_bytes: as the driver reports it, or None.
        driver: its version, or None.
        visible: what CUDA_VISIBLE_DEVICES must be for a process to see this card alone.
    """

    name: str
    uuid: str | None
    total_bytes: int | None
    driver: str | None
    visible: str


class NvmlSight:
    """Reads a card through NVML.

    Args:
        door: NVML, started.
        device: the card.
    """

    def __init__(self, door: Nvml, device: Device) -> None:
        self._door = door
        self._device = device

    def card(self) -> Card:
        """What does not change."""
        try:
            total_bytes: int | None = self._door.memory(self._device).total_bytes
        except NvmlFault:
            total_bytes = None
        return Card(
            name=self._device.name or "GPU of unknown name",
            uuid=self._device.uuid or None,
            total_bytes=total_bytes,
            driver=self._door.driver_version(),
            visible=self._device.uuid or str(self._device.index),
        )

    def used_bytes(self) -> int | None:
        """Used memory of the whole card."""
        try:
            return self._door.memory(self._device).used_bytes
        except NvmlFault:
            return None


def find_device(door: Nvml, number: int, environment: Mapping[str, str] | None = None) -> Device:
    """The device that a program started here would call `cuda:number`.

    Raises:
        UsageError: there is none of that number.
    """
    try:
        devices = door.devices()
    except NvmlFault as fault:
        raise UsageError(f"NVML lists no GPUs: {fault.text}") from fault
    variables = os.environ if environment is None else environment
    ordinals = cuda_ordinals(devices, variables)
    if not ordinals and "CUDA_VISIBLE_DEVICES" not in variables:  # CUDA's order is not certain: NVML's is then meant
        ordinals = {device: device.index for device in devices if device.mig_index is None}
    found = [device for device, ordinal in ordinals.items() if ordinal == number]
    if not found:
        known = ", ".join(f"{ordinal} ({device.name})" for device, ordinal in ordinals.items()) or "none"
        raise UsageError(f"there is no GPU {number}", hint=f"--device takes one of: {known}")
    return found[0]


class Eye:
    """Samples a sight in a thread from `start` to `stop`.

    Args:
        sight: is asked.
        interval_seconds: between two samples.
    """

    def __init__(self, sight: Sight, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._sight = sight
        self._interval_seconds = interval_seconds
        self._samples: list[tuple[float, int]] = []
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> int | None:
        """Begins; returns what is used before anything else happens."""
        first = self._sight.used_bytes()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return first

    def stop(self) -> None:
        """Ends."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def highest(self, begin: float, end: float) -> int | None:
        """The most that was used between two moments, None where no sample fell between them."""
        return max((used for at, used in self._samples if begin <= at <= end), default=None)

    def last(self, begin: float, end: float) -> int | None:
        """What was used at the end of a stretch of time, None where no sample fell into it."""
        return next((used for at, used in reversed(self._samples) if begin <= at <= end), None)

    def _look(self) -> None:
        while not self._stopped.wait(self._interval_seconds):
            used = self._sight.used_bytes()
            if used is not None:
                self._samples.append((time.monotonic(), used))
