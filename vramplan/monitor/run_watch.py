"""The run of `vramplan watch`: samples in, frames out, until q."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from vramplan.errors import NoHardwareError
from vramplan.monitor.prediction import Prediction
from vramplan.monitor.sample import Device, GpuProcess, GpuSample
from vramplan.monitor.signals import SignalInbox
from vramplan.monitor.worker import Failed, Opened, Sampled, SamplerThread, WakePipe

HISTORY = 240
"""Values kept for the history line: more than the widest terminal shows."""
STALL_SECONDS = 3.0


@dataclass(slots=True, kw_only=True)
class GpuView:
    """What is shown of one GPU: the last sample, what the slow questions last gave, and the past."""

    device: Device
    sample: GpuSample | None = None
    gpu_percent: int | None = None
    temperature_celsius: int | None = None
    power_milliwatts: int | None = None
    processes: tuple[GpuProcess, ...] | None = None
    highest_bytes: int | None = None
    history: deque[int | None] = field(default_factory=lambda: deque(maxlen=HISTORY))

    def take(self, sample: GpuSample) -> None:
        """Take a new sample."""
        self.sample = sample
        for name in ("gpu_percent", "temperature_celsius", "power_milliwatts", "processes"):
            value = getattr(sample, name)
            if value is not None or sample.memory is None:
                setattr(self, name, value)
        used = None if sample.memory is None else sample.memory.used_bytes
        self.history.append(used)
        if used is not None:
            self.highest_bytes = max(self.highest_bytes or 0, used)


@dataclass(slots=True, kw_only=True)
class WatchView:
    """Everything on the screen."""

    gpus: list[GpuView] = field(default_factory=list)
    driver_version: str | None = None
    prediction: Prediction | None = None
    interval_seconds: float = 1.0
    silent_seconds: float = 0.0
    """How long the driver has not answered; 0 while it does."""


def watch_once(selectors: Sequence[str], prediction: Prediction | None, timeout_seconds: float = 30.0) -> WatchView:
    """One look.

    Raises:
        NoHardwareError: no driver, no GPU, or no answer in time.
    """
    wake = WakePipe()
    worker = SamplerThread(selectors, process_seconds=1.0, wake=wake.wake, make_format=lambda _opened: None)
    worker.start()
    view = WatchView(prediction=prediction)
    until = time.monotonic() + timeout_seconds
    while time.monotonic() < until:
        for answer in worker.answers():
            if _take(answer, view):
                worker.stop(0.5)
                return view
            worker.request(0, None, everything=True)
        wake.sleep(0.5)
    raise NoHardwareError("the NVIDIA driver does not answer")


def watch_live(
    selectors: Sequence[str],
    prediction: Prediction | None,
    interval_seconds: float,
    show: Callable[[WatchView], None],
) -> int:
    """Show a frame per sample until q or a signal; the exit code.

    Raises:
        NoHardwareError: no driver or no GPU.
    """
    wake = WakePipe()
    worker = SamplerThread(
        selectors,
        process_seconds=max(2.0, interval_seconds),
        wake=wake.wake,
        make_format=lambda _opened: None,
    )
    view = WatchView(prediction=prediction, interval_seconds=interval_seconds)
    with SignalInbox(wake.writer) as signals, _keys() as keyboard:
        worker.start()
        asked, due = time.monotonic(), float("inf")
        is_waiting = True
        while signals.stop_signal is None and not _quits(keyboard):
            now = time.monotonic()
            if now >= due and not is_waiting:
                worker.request(0, None)
                asked, is_waiting = now, True
            silent = now - asked if is_waiting else 0.0
            if silent >= STALL_SECONDS:
                view.silent_seconds = silent
                show(view)
            wake.sleep(min(max(0.0, due - now) if not is_waiting else 1.0, 1.0), keyboard)
            for answer in worker.answers():
                view.silent_seconds, is_waiting = 0.0, False
                if _take(answer, view):
                    show(view)
                due = max(asked + interval_seconds, time.monotonic()) if view.gpus and view.gpus[0].sample else 0.0
        number = signals.stop_signal
    code = 0 if number is None else 128 + number
    if not worker.stop(0.5):
        sys.stdout.flush()
        os._exit(code)
    return code


def _take(answer: Opened | Failed | Sampled, view: WatchView) -> bool:
    """True when there is something new to show.

    Raises:
        NoHardwareError: NVML did not start, or sees no GPU.
    """
    if isinstance(answer, Failed):
        raise answer.error
    if isinstance(answer, Opened):
        if not answer.devices:
            raise NoHardwareError("the NVIDIA driver runs but sees no GPU")
        view.driver_version = answer.driver_version
        view.gpus = [GpuView(device=device) for device in answer.devices]
        return False
    for gpu, sample in zip(view.gpus, answer.samples, strict=True):
        gpu.take(sample)
    return True


def _quits(keyboard: Sequence[int]) -> bool:
    """True when q was pressed, or the keyboard has gone."""
    import select

    if not keyboard or not select.select(list(keyboard), [], [], 0)[0]:
        return False
    try:
        pressed = os.read(keyboard[0], 64)
    except OSError:
        return True
    return not pressed or b"q" in pressed.lower()


@contextlib.contextmanager
def _keys() -> Iterator[list[int]]:
    """Standard input's descriptor, one key at a time, where it is a terminal."""
    try:
        descriptor = sys.stdin.fileno()
        is_terminal = os.isatty(descriptor)
    except (AttributeError, OSError, ValueError):
        is_terminal = False
    if not is_terminal:
        yield []
        return
    import termios
    import tty

    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield [descriptor]
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
