"""`vramplan log` without its flags: options in, exit code out."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

from vramplan.errors import NoHardwareError, UsageError, VramplanError
from vramplan.monitor.child import Child, CommandNotStartedError
from vramplan.monitor.devices import cuda_ordinals
from vramplan.monitor.faults import NoDriverError
from vramplan.monitor.log_file import LogFile
from vramplan.monitor.logger import OPEN_WAIT_SECONDS, Format, Limits, Logger, Output
from vramplan.monitor.native_format import NativeFormat
from vramplan.monitor.options import NATIVE, LogOptions, default_log_path
from vramplan.monitor.prediction import Prediction, read_prediction
from vramplan.monitor.process_tree import is_running
from vramplan.monitor.sample import Tick
from vramplan.monitor.sampler import RowFormat
from vramplan.monitor.signals import SignalInbox
from vramplan.monitor.status_line import StatusLine
from vramplan.monitor.stream import StreamOutput
from vramplan.monitor.summary import RunSummary, summary_lines
from vramplan.monitor.worker import Opened, SamplerThread, WakePipe

ROWS_LOST_EXIT = 1
EXCEEDED_EXIT = 3
NO_HARDWARE_EXIT = 5


class _Formats:
    """The one format of a run, which the sampler's thread and the main thread share."""

    def __init__(self, options: LogOptions, prediction: Prediction | None) -> None:
        self._options, self._prediction = options, prediction
        self._smi = None if options.format.name == NATIVE else options.format.smi()

    @property
    def header(self) -> str:
        return NativeFormat({}, None).header() if self._smi is None else self._smi.header()

    def for_rows(self, opened: Opened) -> RowFormat | None:
        """What the sampler's thread needs."""
        if self._smi is not None:
            self._smi.num_gpus = sum(device.mig_index is None for device in opened.all_devices)
            self._smi.driver_version = opened.driver_version
        return self._smi

    def for_lines(self, opened: Opened) -> Format:
        """What the main thread needs."""
        if self._smi is not None:
            return self._smi
        return NativeFormat(cuda_ordinals(opened.all_devices, os.environ), self._prediction)

    def empty_line(self, status: str) -> str | None:
        """The row of a log that stays empty; nvidia-smi's format has none."""
        return NativeFormat({}, None).empty_line(time.time_ns(), status) if self._smi is None else None


def run_log(options: LogOptions, say: Callable[[str], None]) -> int:
    """Log until the end; what is said goes through `say`, one line each.

    Raises:
        NoHardwareError: no driver, and no command that could run without one.
        UsageError: a file, a pid or a selector is wrong.
    """
    if options.output is None and not options.command and not _is_open(1):
        raise UsageError("standard output is closed, and no -o FILE says where rows go instead")
    _fill_standard_descriptors()
    if options.pid is not None and not is_running(options.pid):
        raise UsageError(f"no process has the pid {options.pid}")
    prediction = None if options.estimate is None else read_prediction(options.estimate)
    formats = _Formats(options, prediction)
    outputs = _outputs(options, formats.header, say)
    status = StatusLine(sys.stderr, prediction) if _wants_status_line(options) else None
    exporter = _exporter(options, prediction)

    def on_tick(tick: Tick, summary: RunSummary) -> None:
        if status is not None:
            status.show(tick, summary)
        if exporter is not None:
            exporter(tick)

    def say_aside(line: str) -> None:
        if status is not None:
            status.clear()
        say(line)

    wake = WakePipe()
    worker = SamplerThread(
        options.selectors,
        process_seconds=options.process_seconds,
        wake=wake.wake,
        make_format=formats.for_rows,
    )
    limits = Limits(
        duration_seconds=options.duration_seconds,
        num_ticks=options.num_ticks,
        fail_above_bytes=options.fail_above_bytes,
        kill_above_bytes=options.kill_above_bytes,
    )
    with SignalInbox(wake.writer) as signals, ExitStack() as stack:
        logger = Logger(
            worker,
            wake,
            signals,
            interval_seconds=options.interval_seconds,
            limits=limits,
            outputs=outputs,
            make_format=formats.for_lines,
            say=say_aside,
            on_tick=on_tick,
        )
        code = _run(logger, options, formats, say_aside) if options.command else _run_plain(logger, options)
        if status is not None:
            stack.callback(status.clear)
        driver_let_go = logger.close()
    if logger.failure is not None and not options.command:
        raise logger.failure
    _say_end(logger, options, prediction, say)
    lost = sum(output.num_rows_lost for output in outputs)
    if logger.exceeded is not None and code == 0:
        code = EXCEEDED_EXIT
    if lost and code == 0 and not options.command:
        code = ROWS_LOST_EXIT
    if not driver_let_go:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, AttributeError):
                stream.flush()
        os._exit(code)  # a thread inside a driver that never answers would hold the interpreter's own end
    return code


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _fill_standard_descriptors() -> None:
    """Put /dev/null where 0, 1 or 2 is closed: the log would get that number otherwise, and prints would go there."""
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= 2:
        os.set_inheritable(descriptor, True)
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)


def _wants_status_line(options: LogOptions) -> bool:
    if options.command or options.quiet or options.output is None or sys.stderr is None:
        return False
    return sys.stderr.isatty()


def _outputs(options: LogOptions, header: str, say: Callable[[str], None]) -> list[Output]:
    outputs: list[Output] = []
    path = options.output
    if path is None and options.command:
        path = default_log_path(options.command, socket.gethostname(), os.getpid())
    if path is not None and str(path) != "-":
        log = LogFile(
            path,
            header,
            force=options.force,
            rotate_bytes=options.rotate_bytes,
            fsync_ticks=options.fsync_ticks,
        )
        for note in log.notes:
            say(note)
        outputs.append(log)
    if options.tee or not outputs:
        outputs.append(StreamOutput(1, header))
    return outputs


def _exporter(options: LogOptions, prediction: Prediction | None) -> Callable[[Tick], None] | None:
    if options.prometheus is None:
        return None
    from vramplan.monitor.exporter import serve

    return serve(options.prometheus, prediction)


def _run_plain(logger: Logger, options: LogOptions) -> int:
    if logger.open(wait_seconds=None):
        if options.pid is not None:
            logger.watch(options.pid)
        logger.run()
    signal = logger.stop_signal()
    return 0 if signal is None else 128 + signal


def _run(logger: Logger, options: LogOptions, formats: _Formats, say: Callable[[str], None]) -> int:
    try:
        if logger.open(wait_seconds=OPEN_WAIT_SECONDS):
            logger.sample_once()
        elif (number := logger.stop_signal()) is not None:
            return 128 + number
        else:
            say(f"the NVIDIA driver has not answered for {OPEN_WAIT_SECONDS:g} s: the command starts without it")
    except NoHardwareError as error:
        _say_why_empty(logger, formats, error, say)
    try:
        logger.child = child = Child(options.command)
    except CommandNotStartedError as error:
        say(f"error: {error.message}")
        return error.exit_code
    logger.watch(child.pid)
    logger.run()
    logger.sample_once(is_last=True)
    code = child.poll()
    return EXCEEDED_EXIT if logger.was_killed else 1 if code is None else code


def _say_why_empty(logger: Logger, formats: _Formats, error: VramplanError, say: Callable[[str], None]) -> None:
    say(f"{error.message}: the command runs, and its log stays empty")
    if error.hint:
        say(f"hint: {error.hint}")
    line = formats.empty_line(error.status if isinstance(error, NoDriverError) else "no_gpu")
    if line is not None:
        for output in logger.outputs:
            output.write([line])


def _say_end(logger: Logger, options: LogOptions, prediction: Prediction | None, say: Callable[[str], None]) -> None:
    lost = sum(output.num_rows_lost for output in logger.outputs)
    if lost:
        say(f"{lost} rows could not be written and are lost")
    if logger.exceeded is not None:
        say(logger.exceeded)
    if options.quiet or not logger.summary.num_ticks:
        return
    watched = bool(options.command) or options.pid is not None
    for line in summary_lines(logger.summary, units=options.units, watched=watched, prediction=prediction):
        say(line)
    for output in logger.outputs:
        if isinstance(output, LogFile):
            say(f"{output.num_rows_written} rows in {output.path.resolve()}")
