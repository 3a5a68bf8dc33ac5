"""`--jsonl`: many runs in one process, or in two once there are enough of them.

A line in is `{"id": …, "run": {…}}`; a line out is the run's report, or `{"id": …, "error": {…}}`, in the same order
and flushed one by one. The exit code is 0 when every line was answered, whatever its verdict, else the lowest code
among the error lines: 2 (bad usage) comes before 4 (cannot tell), which comes before 5.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import queue
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NoReturn, TextIO

from vramplan.catalog import ProfileDirs
from vramplan.cli import _terminal
from vramplan.cli._answer import answer_run, simulate_asked, with_profile
from vramplan.cli.exit_codes import ExitCode
from vramplan.errors import UsageError, VramplanError
from vramplan.output.json_report import report_to_dict
from vramplan.runfiles.flat import FlatRun, parse_flat

NUM_WORKERS = 2
NUM_LINES_ALONE = 16  # fewer are answered before two workers have started
_READ_AHEAD = 256  # lines waiting for a worker, so that an endless stream does not fill the memory
_NUM_LINES_PER_TASK = 8  # at most: handing a task over costs as much as a twentieth of a line's answer

Numbered = tuple[int, str]
"""A line of input with its number, from 1."""
Answer = tuple[str, int]
"""A line of output and its exit code."""


def answer_lines(source: str, defaults: FlatRun, dirs: ProfileDirs, *, simulated: bool = False) -> ExitCode:
    """Answer each line of a file, or of stdin for `-`.

    Args:
        source: a path or `-`.
        defaults: settings for lines that do not set them.
        dirs: where profiles lie.
        simulated: run each line on fake tensors instead of estimating it.

    Raises:
        UsageError: the file cannot be read.
    """
    codes: set[int] = set()
    with _open(source) as lines, closing(_answers(lines, defaults, dirs, simulated)) as answers:
        for text, code in answers:
            codes.add(code)
            if not _terminal.write_answer(text + "\n"):
                break
    return ExitCode(min(codes - {ExitCode.DONE}, default=ExitCode.DONE))


def answer_line(line: str, number: int, defaults: FlatRun, dirs: ProfileDirs, *, simulated: bool = False) -> Answer:
    """One line's answer; nothing that a line holds ends the stream."""
    line_id: object = None
    try:
        row = _row(line, number)
        line_id = row.get("id")
        given = parse_flat(_settings(row, number), f"line {number}")
        asked, run_id = with_profile(defaults.merged(given), dirs), _text_id(line_id, number)
        report = (
            simulate_asked(asked, dirs, run_id=run_id).report if simulated else answer_run(asked, dirs, run_id=run_id)
        )
    except VramplanError as error:
        return _error(line_id, error.message, error.hint, error.exit_code)
    except Exception as error:  # a defect of ours must not cost the other lines
        return _error(line_id, f"internal error: {type(error).__name__}: {error}", None, ExitCode.CRASH)
    return _dump(report_to_dict(report) | {"id": line_id}), ExitCode.DONE


def _answers(
    lines: Iterable[str], defaults: FlatRun, dirs: ProfileDirs, simulated: bool
) -> Generator[Answer, None, None]:
    numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    if simulated:  # in this process: torch and its threads do not survive a fork, and take seconds to load again
        for number, line in numbered:
            yield answer_line(line, number, defaults, dirs, simulated=True)
        return
    for number, line in itertools.islice(numbered, NUM_LINES_ALONE):
        yield answer_line(line, number, defaults, dirs)
    if hasattr(os, "fork") and (os.cpu_count() or 1) > 1:
        yield from _pooled(numbered, defaults, dirs)
        return
    for number, line in numbered:
        yield answer_line(line, number, defaults, dirs)


def _pooled(numbered: Iterator[Numbered], defaults: FlatRun, dirs: ProfileDirs) -> Iterator[Answer]:
    """Answers from worker processes, in order. A thread reads, so that a slow writer gets each answer at once."""
    import multiprocessing

    first = next(numbered, None)
    if first is None:
        return
    ready: queue.Queue[Numbered | _End] = queue.Queue(_READ_AHEAD)
    stopped = threading.Event()
    # Forked, because what the first lines have loaded and cached is then there at once.
    pool = ProcessPoolExecutor(
        NUM_WORKERS, multiprocessing.get_context("fork"), initializer=_start_worker, initargs=(defaults, dirs)
    )
    # The first task forks the workers, and that must be before there is another thread.
    under_way = deque([pool.submit(_work, [first])])
    threading.Thread(target=_read, args=(numbered, ready, stopped), daemon=True).start()
    end: _End | None = None
    try:
        while under_way:
            while end is None and len(under_way) < 2 * NUM_WORKERS:
                lines, end = _take(ready)
                if not lines:
                    break
                under_way.append(pool.submit(_work, lines))
            yield from under_way.popleft().result()
            if end is None and not under_way:
                lines, end = _take(ready, waits=True)
                if lines:
                    under_way.append(pool.submit(_work, lines))
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)  # and wait: what runs is a few lines each
    if end is not None and end.error is not None:
        raise end.error


@dataclass(frozen=True, slots=True)
class _End:
    """There are no more lines; `error` is what reading ended with, or None."""

    error: BaseException | None = None


def _read(numbered: Iterator[Numbered], ready: queue.Queue[Numbered | _End], stopped: threading.Event) -> None:
    """Puts the lines where `_take` finds them."""

    def put(item: Numbered | _End) -> None:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.2)
            except queue.Full:
                continue
            return

    try:
        for item in numbered:
            put(item)
            if stopped.is_set():
                return
    except BaseException as error:  # raised again where the answers are taken
        put(_End(error))
    put(_End())


def _take(ready: queue.Queue[Numbered | _End], *, waits: bool = False) -> tuple[list[Numbered], _End | None]:
    """The lines that are there, up to a task's worth, and the end if it is there too.

    Args:
        ready: what was read.
        waits: whether to wait for a line if there is none.
    """
    lines: list[Numbered] = []
    while len(lines) < _NUM_LINES_PER_TASK:
        try:
            item = ready.get(block=waits and not lines)
        except queue.Empty:
            break
        if isinstance(item, _End):
            return lines, item
        lines.append(item)
    return lines, None


_worker: tuple[FlatRun, ProfileDirs] | None = None


def _start_worker(defaults: FlatRun, dirs: ProfileDirs) -> None:
    import signal

    global _worker
    _worker = (defaults, dirs)
    # An answer leaves no cycles (tests/cli/test_cli_jsonl.py), and looking for them took 7 % of the time.
    gc.disable()
    gc.freeze()  # nor, if a library turns it on again, are the pages copied that were there before the fork
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer


def _work(lines: list[Numbered]) -> list[Answer]:
    if _worker is None:
        raise RuntimeError("the worker was not set up")
    return [answer_line(line, number, *_worker) for number, line in lines]


def _open(source: str) -> TextIO:
    # A byte that is not UTF-8 costs its own line only, and a byte order mark costs none.
    if source == "-":
        if sys.stdin is None:
            raise UsageError("stdin is closed", hint="name a file: --jsonl runs.jsonl")
        return open(sys.stdin.fileno(), encoding="utf-8-sig", errors="replace", closefd=False)
    try:
        return open(source, encoding="utf-8-sig", errors="replace")  # noqa: PTH123 - a path is all it is here
    except OSError as error:
        raise UsageError(f"{source} cannot be read: {error.strerror}") from error


def _row(line: str, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"line {number} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise UsageError(f"line {number} is not a JSON object", hint='write {"id": "one", "run": {…}}')
    return row


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a JSON number")


def _settings(row: dict[str, Any], number: int) -> dict[str, Any]:
    settings = row.get("run")
    if not isinstance(settings, dict):
        raise UsageError(f'line {number} has no object "run"', hint='write {"id": "one", "run": {…}}')
    return settings


def _text_id(line_id: object, number: int) -> str | None:
    if line_id is None or isinstance(line_id, str):
        return line_id
    if isinstance(line_id, (int, float)) and not isinstance(line_id, bool):
        return str(line_id)
    raise UsageError(f"line {number}: id must be a text or a number, not {line_id!r}")


def _error(line_id: object, message: str, hint: str | None, code: int) -> Answer:
    return _dump({"id": line_id, "error": {"message": message, "hint": hint, "exit_code": int(code)}}), int(code)


def _dump(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
