"""The thread that talks to the driver, so that a driver that never answers cannot hold the program.

A call into a wedged driver blocks inside C and cannot be ended from within the process. The main thread therefore only
ever waits on a pipe, where signals wake it too; the sampler's thread puts its answers there.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

from vramplan.errors import VramplanError
from vramplan.monitor.devices import select_devices
from vramplan.monitor.faults import NvmlFault, no_driver
from vramplan.monitor.nvml import Nvml, open_nvml
from vramplan.monitor.process_tree import ProcessTree
from vramplan.monitor.sample import Device, GpuSample
from vramplan.monitor.sampler import RowFormat, Sampler


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """NVML answered: which GPUs are watched, and which there are."""

    devices: tuple[Device, ...]
    all_devices: tuple[Device, ...]
    driver_version: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """NVML did not start, or the selectors fit nothing; `status` is the log's word for it."""

    error: VramplanError
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """One look, for the tick that asked; `at` is the monotonic clock when it began."""

    number: int
    at: float
    samples: tuple[GpuSample, ...]


Answer = Opened | Failed | Sampled


@dataclass(frozen=True, slots=True)
class _Request:
    number: int
    tree: ProcessTree | None
    everything: bool


class SamplerThread:
    """Opens NVML and samples on request.

    Args:
        selectors: `--gpu`, as given.
        process_seconds: pace of the process list, None for never.
        wake: told after each answer; it must be callable from any thread.
        make_format: gives the row format once NVML is open, None for our own.
    """

    def __init__(
        self,
        selectors: Sequence[str],
        *,
        process_seconds: float | None,
        wake: Callable[[], None],
        make_format: Callable[[Opened], RowFormat | None],
    ) -> None:
        self._selectors = tuple(selectors)
        self._process_seconds = process_seconds
        self._wake = wake
        self._make_format = make_format
        self._requests: SimpleQueue[_Request | None] = SimpleQueue()
        self._answers: deque[Answer] = deque()
        self._thread = threading.Thread(target=self._run, name="vramplan-nvml", daemon=True)

    def start(self) -> None:
        """Begin with opening NVML; `Opened` or `Failed` is the first answer."""
        self._thread.start()

    def request(self, number: int, tree: ProcessTree | None, *, everything: bool = False) -> None:
        """Ask for one look."""
        self._requests.put(_Request(number, tree, everything))

    def answers(self) -> list[Answer]:
        """What has come since the last call."""
        found = []
        while self._answers:
            found.append(self._answers.popleft())
        return found

    def stop(self, timeout_seconds: float) -> bool:
        """Let the thread end; False if the driver still holds it."""
        self._requests.put(None)
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _answer(self, answer: Answer) -> None:
        self._answers.append(answer)
        self._wake()

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:  # a thread that dies silently would leave the main thread waiting for ever
            failed = VramplanError(
                f"sampling failed ({type(error).__name__}: {error})", hint="this is a bug: report it"
            )
            self._answer(Failed(error=failed, status="error"))

    def _serve(self) -> None:
        try:
            door = open_nvml()
            opened, sampler = self._prepare(door)
        except NvmlFault as fault:
            return self._answer(Failed(error=no_driver(fault), status=fault.status))
        except VramplanError as error:
            return self._answer(Failed(error=error, status=getattr(error, "status", "error")))
        self._answer(opened)
        while (request := self._requests.get()) is not None:
            at = time.monotonic()
            samples = sampler.sample(request.tree, everything=request.everything)
            self._answer(Sampled(number=request.number, at=at, samples=samples))
        door.close()
        return None

    def _prepare(self, door: Nvml) -> tuple[Opened, Sampler]:
        everything = door.devices()
        chosen = select_devices(everything, self._selectors)
        opened = Opened(devices=chosen, all_devices=everything, driver_version=door.driver_version())
        row_format = self._make_format(opened)
        sampler = Sampler(door, chosen, process_seconds=self._process_seconds, row_format=row_format)
        return opened, sampler


class WakePipe:
    """What the main thread sleeps on: written by the sampler's thread and by every signal."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    @property
    def writer(self) -> int:
        """For `signal.set_wakeup_fd`."""
        return self._writer

    def wake(self) -> None:
        """End the sleep; a full pipe has already ended it."""
        try:
            os.write(self._writer, b"\0")
        except (BlockingIOError, OSError):
            return

    def sleep(self, timeout_seconds: float, also: Sequence[int] = ()) -> bool:
        """Until woken, or the time is over; True where one of the descriptors in `also` can be read."""
        ready = select.select([self._reader, *also], [], [], max(0.0, timeout_seconds))[0]
        if self._reader in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._reader, 4096)
        return any(descriptor in ready for descriptor in also)
