"""Many runs, one after the other: those that a file has records of are skipped, each new one is appended as it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vramplan.catalog.dirs import ProfileDirs
from vramplan.catalog.matrices import Matrix, MatrixRun
from vramplan.errors import NoHardwareError, UsageError, VramplanError
from vramplan.planner.bench import Bench
from vramplan.planner.measure_plan import LONGEST_SECONDS, Manner, Planned, plan_run
from vramplan.planner.measured import Measured, measure_run
from vramplan.planner.run_files import read_named_run
from vramplan.records.record import WEIGHTS, Record
from vramplan.records.store import append_record, read_records, sole_writer
from vramplan.runfiles.flat import FlatRun, parse_flat

AGAIN = ("interrupted", "killed")
"""Outcomes that say nothing of the run: it is measured again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A run that was not measured, and why."""

    title: str
    message: str
    exit_code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixResult:
    """What came of a matrix.

    Args:
        records: of all its runs, in its order, earlier ones among them.
        num_skipped: how many of them were there before.
        refused: runs that could not be measured.
        was_interrupted: whether Ctrl-C ended it.
    """

    records: tuple[Record, ...]
    num_skipped: int
    refused: tuple[Refused, ...]
    was_interrupted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    planned: Planned
    manner: Manner
    title: str


Measure = Callable[..., Measured]


def run_matrix(
    matrix: Matrix,
    manner: Manner,
    bench: Bench,
    path: Path,
    *,
    profile_dirs: ProfileDirs,
    progress: Callable[[str], None],
    measure: Measure = measure_run,
) -> MatrixResult:
    """Measure every run of a matrix that `path` has no record of.

    Args:
        matrix: the runs.
        manner: how, where the matrix does not say.
        bench: where.
        path: a file of records: what is in it is not measured again, what is measured is appended to it.
        profile_dirs: where profiles lie.
        progress: is told of each run, and of the time left.
        measure: measures one run.

    Raises:
        NoHardwareError: there is nothing to measure on.
        UsageError: a setting is wrong, or the file cannot be read or written.
    """
    ready, refused = _plan(matrix, manner, bench, profile_dirs, progress)
    with sole_writer(path):
        return _run_all(ready, refused, bench, path, profile_dirs=profile_dirs, progress=progress, measure=measure)


def _run_all(
    ready: list[_Ready],
    refused: list[Refused],
    bench: Bench,
    path: Path,
    *,
    profile_dirs: ProfileDirs,
    progress: Callable[[str], None],
    measure: Measure,
) -> MatrixResult:
    known = {} if not path.is_file() else {one.run_key: one for one in read_records(path) if one.outcome not in AGAIN}
    done = {one.planned.key: known[one.planned.key] for one in ready if one.planned.key in known}
    num_skipped = len(done)
    waiting = [one for one in ready if one.planned.key not in done]
    progress(f"{len(ready)} runs, {num_skipped} of them measured before, {len(waiting)} to measure into {path}")
    begin, was_interrupted = time.monotonic(), False
    for number, one in enumerate(waiting):
        left = _time_left(time.monotonic() - begin, number, len(waiting))
        progress(f"[{num_skipped + number + 1}/{len(ready)}] {one.title}{left}")
        try:
            measured = measure(one.planned, one.manner, bench, profile_dirs=profile_dirs)
        except NoHardwareError:
            raise
        except VramplanError as error:
            progress(f"    not measured: {error.message}")
            refused.append(Refused(title=one.title, message=error.message, exit_code=error.exit_code))
            continue
        append_record(path, measured.record)
        done[one.planned.key] = measured.record
        progress(f"    {_result(measured.record)}")
        if measured.was_interrupted:
            was_interrupted = True
            break
    return MatrixResult(
        records=tuple(done[one.planned.key] for one in ready if one.planned.key in done),
        num_skipped=num_skipped,
        refused=tuple(refused),
        was_interrupted=was_interrupted,
    )


def _plan(
    matrix: Matrix, manner: Manner, bench: Bench, profile_dirs: ProfileDirs, progress: Callable[[str], None]
) -> tuple[list[_Ready], list[Refused]]:
    """The runs, all checked before the first is measured; one that cannot exist costs no other."""
    ready: dict[str, _Ready] = {}
    refused: list[Refused] = []
    folder, notes = matrix.file.path.parent, set[str]()
    for run in matrix.runs:
        flat, found = _over_named_run(parse_flat(run.settings, run.where), folder, profile_dirs)
        for note in found:
            if note not in notes:
                progress(note)
                notes.add(note)
        own = _manner(run, manner)
        title = _title(run)
        try:
            planned = plan_run(flat, own, bench, profile_dirs)
        except (NoHardwareError, UsageError):
            raise
        except VramplanError as error:
            refused.append(Refused(title=title, message=error.message, exit_code=error.exit_code))
            continue
        ready.setdefault(planned.key, _Ready(planned=planned, manner=own, title=title))
    return list(ready.values()), refused


def _over_named_run(flat: FlatRun, folder: Path, profile_dirs: ProfileDirs) -> tuple[FlatRun, list[str]]:
    """The settings over those of the run that they name, and what to know of its file.

    Relative paths start at the matrix's own folder. A profile keeps its name; a file's place says nothing on another
    machine, so what was read from it is all that stays.
    """
    if flat.run is None:
        return flat, []
    found = read_named_run(flat.run, profile_dirs, folder=folder)
    if profile_dirs.lookup("runs", flat.run) is not None:
        return found.flat.merged(flat), []
    notes = [f"{found.profile.file.path}: {note}" for note in found.profile.notes]
    return found.flat.merged(replace(flat, run=None)), notes


def _manner(run: MatrixRun, manner: Manner) -> Manner:
    given: Mapping[str, Any] = run.manner
    weights, steps, timeout, conf = (given.get(key) for key in ("weights", "steps", "timeout", "allocator_conf"))
    if weights is not None and weights not in WEIGHTS:
        raise UsageError(f"{run.where}: weights must be one of {', '.join(WEIGHTS)}, not {weights!r}")
    if steps is not None and (not isinstance(steps, int) or isinstance(steps, bool) or steps < 1):
        raise UsageError(f"{run.where}: steps must be a whole number of at least 1, not {steps!r}")
    is_number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if timeout is not None and (not is_number or not 0 < timeout <= LONGEST_SECONDS):  # nan is in no range
        raise UsageError(f"{run.where}: timeout must be a number of seconds above 0 and up to a week, not {timeout!r}")
    if conf is not None and not isinstance(conf, str):
        raise UsageError(f"{run.where}: allocator_conf must be a text, not {conf!r}")
    return replace(
        manner,
        weights=manner.weights if weights is None else weights,
        steps=manner.steps if steps is None else steps,
        timeout_seconds=manner.timeout_seconds if timeout is None else float(timeout),
        conf=manner.conf if conf is None else conf,
    )


def _title(run: MatrixRun) -> str:
    """What tells this run from the others: its values, names of models first."""
    settings = {**run.settings, **{key: value for key, value in run.manner.items() if key == "allocator_conf"}}
    words = [
        str(value).rpartition("/")[2] if key in ("model", "teacher", "student") else f"{key}={value}"
        for key, value in settings.items()
        if key not in ("reference", "tuning", "gpu") and value not in ("", None)
    ]
    tuning = settings.get("tuning")
    return " ".join(words + ([] if tuning is None else [str(tuning)]))


def _time_left(seconds: float, num_done: int, num_all: int) -> str:
    if not num_done:
        return ""
    left = seconds / num_done * (num_all - num_done)
    return f", about {left / 60:.0f} min left" if left >= 90 else f", about {left:.0f} s left"


def _result(record: Record) -> str:
    if record.outcome != "done":
        return f"{record.outcome.replace('_', ' ')}: {record.message}"
    parts = []
    for name in ("allocated_bytes", "reserved_bytes"):
        measured = max((getattr(phase, name) or 0 for phase in record.phases), default=0)
        said = [f"{name.removesuffix('_bytes')} {measured / 1e9:.3f} GB"]
        for how in ("estimate", "simulate"):
            prediction = getattr(record, how)
            if prediction is not None and measured:
                predicted = max(getattr(phase, name) for phase in prediction.phases)
                said.append(f"{how} {predicted / measured - 1:+.1%}")
        parts.append(" ".join(said))
    return "; ".join(parts)
