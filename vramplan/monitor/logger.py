"""The run of `vramplan log`: ticks in, rows out, until told to stop.

The main thread owns the file, the child and the signals; it sleeps on a pipe and never calls the driver.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from vramplan.errors import NoHardwareError, VramplanError
from vramplan.monitor.child import Child
from vramplan.monitor.faults import STALLED
from vramplan.monitor.pacer import Pacer
from vramplan.monitor.process_tree import ProcessTree
from vramplan.monitor.sample import Device, GpuSample, Tick
from vramplan.monitor.signals import SignalInbox
from vramplan.monitor.summary import RunSummary
from vramplan.monitor.worker import Failed, Opened, Sampled, SamplerThread, WakePipe

OPEN_WAIT_SECONDS = 5.0
"""How long a command waits for the driver before it is started without a first sample."""
STALL_SECONDS = 5.0
"""A tick that takes longer than this, and than ten intervals, is written as stalled."""
GRACE_SECONDS = 10.0
"""From the first polite signal of `--kill-above` to the one that cannot be ignored."""
LAST_SAMPLE_SECONDS = 2.0
FINISH_SECONDS = 1.0
"""How long an end waits for the tick that is under way."""


class Output(Protocol):
    """Where rows go."""

    error: str | None
    num_rows_written: int
    num_rows_lost: int

    def write(self, lines: list[str]) -> bool:
        """Add a tick's lines; True when all are written."""

    def close(self) -> None:
        """Let it go."""


class Format(Protocol):
    """Makes lines of ticks."""

    def lines(self, tick: Tick) -> list[str]:
        """One line a GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a run ends by itself, and what it must not exceed; None for no limit."""

    duration_seconds: float | None = None
    num_ticks: int | None = None
    fail_above_bytes: int | None = None
    kill_above_bytes: int | None = None


class Logger:
    """One logging run.

    Args:
        worker: the thread that samples; not yet started.
        wake: what it wakes.
        signals: caught signals.
        interval_seconds: between ticks.
        limits: when to end.
        outputs: where rows go, in this order: what comes later is never ahead of what comes first.
        make_format: gives the lines' format once the devices are known.
        say: a line for the user, on standard error.
        on_tick: told each tick after its rows are written.
    """

    def __init__(
        self,
        worker: SamplerThread,
        wake: WakePipe,
        signals: SignalInbox,
        *,
        interval_seconds: float,
        limits: Limits,
        outputs: Sequence[Output],
        make_format: Callable[[Opened], Format],
        say: Callable[[str], None],
        on_tick: Callable[[Tick, RunSummary], None],
    ) -> None:
        self._worker, self._wake, self._signals = worker, wake, signals
        self._interval, self._limits = interval_seconds, limits
        self.outputs, self._make_format = tuple(outputs), make_format
        self._say, self._on_tick = say, on_tick
        self.summary = RunSummary(interval_seconds)
        self.exceeded: str | None = None
        self.was_killed = False  # by --kill-above
        self.failure: VramplanError | None = None
        self.child: Child | None = None
        self._format: Format | None = None
        self._devices: tuple[Device, ...] = ()
        self._tree: ProcessTree | None = None
        self._start = time.monotonic()
        self._pacer = Pacer(self._start, interval_seconds)
        self._asked: tuple[int, float] | None = None  # tick and time of the request that is not yet answered
        self._stalled = False
        self._kill_at: float | None = None
        self._written_error: str | None = None

    def stop_signal(self) -> int | None:
        """The first signal that asked for the end; a call, because it changes between two looks."""
        return self._signals.stop_signal

    def open(self, *, wait_seconds: float | None) -> bool:
        """Start NVML; False if the driver did not answer in time or a signal came first.

        Raises:
            NoHardwareError: no driver.
            UsageError: a selector fits no GPU.
        """
        self._worker.start()
        started, told = time.monotonic(), False
        while not self.stop_signal():
            for answer in self._worker.answers():
                self._take(answer)
            if self._format is not None:
                return True
            self._raise_failure()
            waited = time.monotonic() - started
            if wait_seconds is not None and waited >= wait_seconds:
                return False
            if waited >= OPEN_WAIT_SECONDS and not told:
                told = True
                self._say(f"the NVIDIA driver has not answered for {OPEN_WAIT_SECONDS:g} s; still waiting")
            self._wake.sleep(min(wait_seconds or 1.0, 1.0))
        return False

    def _raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure

    def sample_once(self, *, is_last: bool = False) -> None:
        """One full sample now, outside the grid: before and after a command. A driver that stalls is not waited for."""
        if self._format is None:
            return
        if not self._wait_for_answer(LAST_SAMPLE_SECONDS, is_last=is_last):
            return
        self._request(everything=True)
        self._wait_for_answer(LAST_SAMPLE_SECONDS, is_last=is_last)

    def _wait_for_answer(self, seconds: float, *, is_last: bool) -> bool:
        """True when nothing is asked and not yet answered."""
        until = time.monotonic() + seconds
        while self._asked is not None:
            if time.monotonic() >= until or (self.stop_signal() and not is_last):
                return False
            self._wake.sleep(0.1)
            self._take_answers()
        return True

    def watch(self, pid: int) -> None:
        """Follow this process and what it starts."""
        self._tree = ProcessTree(pid)

    def run(self) -> None:
        """Until a signal, a limit, the child's end, or the last output's end."""
        while True:
            now = time.monotonic()
            if self._is_over(now):
                break
            if self._format is not None and self._asked is None and now >= self._pacer.due:
                self._request()
            self._check_stall(now)
            self._wake.sleep(self._sleep_seconds(time.monotonic()))
            self._forward_signals()
            self._take_answers()
        if self.child is None and not self._stalled:
            self._wait_for_answer(FINISH_SECONDS, is_last=True)

    def close(self) -> bool:
        """Write what waits and let NVML go; False if the driver still holds its thread."""
        for output in self.outputs:
            output.close()
        return self._worker.stop(0.5 if self._asked is None else 0.0)

    def _is_over(self, now: float) -> bool:
        if self.child is not None:
            if self.child.poll() is not None:
                return True
            if self._kill_at is not None and now >= self._kill_at:
                self.child.signal(9)
                self._kill_at = None
            return False
        if self.stop_signal() or self.failure is not None:
            return True
        if self.outputs and all(getattr(output, "is_closed", False) for output in self.outputs):
            return True
        limits = self._limits
        if limits.num_ticks is not None and self.summary.num_ticks >= limits.num_ticks:
            return True
        return limits.duration_seconds is not None and now - self._start >= limits.duration_seconds

    def _sleep_seconds(self, now: float) -> float:
        wait = 3600.0
        if self._format is not None:
            if self._asked is None:
                wait = min(wait, self._pacer.due - now)
            elif not self._stalled:
                wait = min(wait, self._stall_at() - now)
        if self._limits.duration_seconds is not None and self.child is None:
            wait = min(wait, self._start + self._limits.duration_seconds - now)
        if self._kill_at is not None:
            wait = min(wait, self._kill_at - now)
        return max(0.0, wait)

    def _stall_at(self) -> float:
        limit = max(STALL_SECONDS, 10 * self._interval)
        return (self._asked[1] if self._asked else 0.0) + limit

    def _request(self, *, everything: bool = False) -> None:
        now = time.monotonic()
        number = self._pacer.number if everything else self._pacer.number_at(now)
        self._asked = (number, now)
        self._worker.request(number, self._tree, everything=everything)

    def _check_stall(self, now: float) -> None:
        """A driver that does not answer gets one row a GPU that says so, once; the gap after it speaks for itself."""
        if self._asked is None or self._stalled or now < self._stall_at():
            return
        self._stalled = True
        self._say(f"the NVIDIA driver has not answered for {now - self._asked[1]:.0f} s; still waiting")
        asked_ns = time.time_ns()
        samples = tuple(GpuSample(device=device, status=STALLED, asked_ns=asked_ns) for device in self._devices)
        self._write(self._asked[0], samples, now, asked_ns)
        self._pacer.advance(self._asked[0], now)

    def _forward_signals(self) -> None:
        for number in self._signals.take():
            if self.child is not None and self.child.poll() is None:
                self.child.signal(number)

    def _take_answers(self) -> None:
        for answer in self._worker.answers():
            self._take(answer)

    def _take(self, answer: Opened | Failed | Sampled) -> None:
        if isinstance(answer, Sampled):
            now, number = time.monotonic(), answer.number
            at, time_ns = answer.at, answer.samples[0].asked_ns
            if self._stalled:
                # The question is older than the row that says that it was not answered; the answer is of now.
                self._say("the NVIDIA driver answers again")
                number, at, time_ns = self._pacer.number_at(now), now, time.time_ns()
            self._stalled, self._asked = False, None
            self._write(number, answer.samples, at, time_ns)
            self._pacer.advance(number, now)
        elif isinstance(answer, Opened):
            self._devices = answer.devices
            if not answer.devices:
                self.failure = NoHardwareError("the NVIDIA driver runs but sees no GPU")
                return
            self._format = self._make_format(answer)
            self._start = time.monotonic()
            self._pacer = Pacer(self._start, self._interval)
        else:
            self.failure = answer.error

    def _write(self, number: int, samples: tuple[GpuSample, ...], at: float, time_ns: int) -> None:
        if self._format is None:
            return
        elapsed = max(0.0, at - self._start)
        tick = Tick(number=number, time_ns=time_ns, elapsed_seconds=elapsed, samples=samples)
        lines = self._format.lines(tick)
        for output in self.outputs:
            if not output.write(lines) and not getattr(output, "is_closed", False):
                break  # what is shown elsewhere is never ahead of the file
        self._report_errors()
        self.summary.add(tick)
        self._check_limits(samples)
        self._on_tick(tick, self.summary)

    def _report_errors(self) -> None:
        error = next((output.error for output in self.outputs if output.error), None)
        if error != self._written_error:
            if error:
                self._say(f"rows cannot be written ({error}); they are kept in memory and tried again at every tick")
            else:
                self._say("rows are written again; those kept in memory were written too")
            self._written_error = error

    def _check_limits(self, samples: Sequence[GpuSample]) -> None:
        for sample in samples:
            used = None if sample.memory is None else sample.memory.used_bytes
            if used is None:
                continue
            name = f"GPU {sample.device.label} used {used:,} bytes"
            fail, kill = self._limits.fail_above_bytes, self._limits.kill_above_bytes
            if fail is not None and used > fail and self.exceeded is None:
                self.exceeded = f"{name}, above --fail-above {fail:,}"
            if kill is not None and used > kill and self.child is not None and not self.was_killed:
                self.exceeded = f"{name}, above --kill-above {kill:,}: the command was ended"
                self._say(self.exceeded)
                self.was_killed = True
                self.child.signal(15)
                self._kill_at = time.monotonic() + GRACE_SECONDS
