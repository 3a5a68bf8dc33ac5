"""From flat settings to a record and a report, by running the real code on a real device in a process of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vramplan.allocator.config import AllocatorConfig
from vramplan.catalog.dirs import ProfileDirs
from vramplan.core.report import MemoryReport
from vramplan.errors import CannotTellError, NoHardwareError, UsageError, VramplanError
from vramplan.formula.estimate import estimate
from vramplan.planner.answer import load_model
from vramplan.planner.bench import Bench
from vramplan.planner.device_eye import SETTLE_SECONDS, Eye
from vramplan.planner.measure_plan import Manner, Planned, with_workspace
from vramplan.planner.measured_engine import engine_note, engine_of, without_engine
from vramplan.planner.measured_record import (
    emptied_of,
    gpu_of,
    now,
    out_of_memory_of,
    outcome_of,
    phases_of,
    prediction_of,
    stopped_in,
    versions_of,
)
from vramplan.planner.measured_report import measured_report
from vramplan.planner.report_of import report_of
from vramplan.planner.simulated import as_autocast
from vramplan.program import supervise
from vramplan.program.supervise import ChildRun, Finished
from vramplan.program.task import Task
from vramplan.records.record import Record, RecordAllocator, RecordOutOfMemory

_ERRORS = {2: UsageError, 4: CannotTellError, 5: NoHardwareError}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A measured run.

    Args:
        record: what was measured.
        report: the same as a report; None where not even a phase was reached.
        estimate: what the formulas say.
        simulate: what the simulation says, or None where it was not asked or could not tell.
        was_interrupted: whether Ctrl-C ended it.
    """

    record: Record
    report: MemoryReport | None
    estimate: MemoryReport
    simulate: MemoryReport | None
    was_interrupted: bool


def measure_run(
    planned: Planned,
    manner: Manner,
    bench: Bench,
    *,
    profile_dirs: ProfileDirs,
    run_id: str | None = None,
    progress: Callable[[str], None] | None = None,
    command: Sequence[str] | None = None,
) -> Measured:
    """Measure a run; it is simulated meanwhile.

    Args:
        planned: the run.
        manner: how.
        bench: where.
        profile_dirs: where profiles lie.
        run_id: the id to hand back.
        progress: is told what is being done.
        command: starts the measuring process; None takes the real one.

    Raises:
        VramplanError: the process found that it cannot measure, as it finds no device.
    """
    tell = progress or (lambda _: None)
    setting = planned.prepared[0]
    guess = report_of(
        planned.flat,
        planned.prepared,
        estimate(setting).phases,
        how="estimate",
        profile_dirs=profile_dirs,
        run_id=run_id,
    )
    eye = None if bench.sight is None else Eye(bench.sight)
    with tempfile.TemporaryDirectory(prefix="vramplan-measure-") as folder:
        snapshot = Path(folder) / "snapshot.pickle"
        task = _task(planned, manner, bench, profile_dirs, Path(folder), snapshot)
        baseline = None if eye is None else eye.start()
        tell(f"measuring with {planned.weights.kind} weights, at most {manner.timeout_seconds:g} s")
        child = ChildRun(
            task,
            folder=Path(folder),
            environment=environment_of(planned.conf, manner.cublas_workspace_config, bench),
            timeout_seconds=manner.timeout_seconds,
            command=command or supervise.COMMAND,
        )
        simulation: MemoryReport | None = None
        notes: list[str] = []
        try:
            if manner.simulates:
                with _hidden_gpus():
                    simulation, note = _simulated(planned, manner, task.configs, profile_dirs, run_id)
                notes += [] if note is None else [note]
            finished = child.wait()
        except KeyboardInterrupt:  # during the simulation
            finished = child.finish(interrupted=True)
        except BaseException:
            child.finish()
            raise
        finally:
            if eye is not None:
                eye.stop()
        _raise_refusal(finished)
        record = _record(planned, manner, bench, finished, eye, baseline, guess, simulation, notes)
        if manner.snapshots is not None:
            record = _with_snapshot(record, snapshot, manner.snapshots)
    return Measured(
        record=record,
        report=measured_report(planned.flat, planned.prepared, record, profile_dirs=profile_dirs, run_id=run_id),
        estimate=guess,
        simulate=simulation,
        was_interrupted=finished.interrupted,
    )


@contextmanager
def _hidden_gpus() -> Iterator[None]:
    """Nothing here may take memory of the card that another process measures, not even a context."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        yield
    finally:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def environment_of(conf: str, cublas_workspace_config: str | None, bench: Bench) -> dict[str, str | None]:
    """Variables of the measuring process alone; None takes one away.

    torch before 2.9 reads PYTORCH_CUDA_ALLOC_CONF, newer ones take that as a second name of PYTORCH_ALLOC_CONF
    (c10/core/AllocatorConfig.h): both are set alike.
    """
    variables: dict[str, str | None] = {"PYTORCH_ALLOC_CONF": conf or None, "PYTORCH_CUDA_ALLOC_CONF": conf or None}
    if cublas_workspace_config is not None:
        variables["CUBLAS_WORKSPACE_CONFIG"] = cublas_workspace_config
    visible = bench.visible if bench.card is None else bench.card.visible
    if visible is not None:
        variables["CUDA_VISIBLE_DEVICES"] = visible
    return variables


def _task(
    planned: Planned, manner: Manner, bench: Bench, profile_dirs: ProfileDirs, folder: Path, snapshot: Path
) -> Task:
    setting = planned.prepared[0]
    return Task(
        run=as_autocast(setting),
        configs={
            role.name: load_model(role.model, profile_dirs, planned.flat.architecture).source.config
            for role in setting.run.roles
        },
        stack=setting.stack,
        checkpoints=planned.weights.folders,
        writes_checkpoints=planned.weights.kind == "random-checkpoint",
        steps=manner.steps,
        device=bench.device,
        allocator_conf=planned.conf,
        capacity_bytes=bench.capacity_bytes,
        settle_seconds=0.0 if bench.sight is None else SETTLE_SECONDS,
        snapshot=None if manner.snapshots is None else str(snapshot),
        folder=str(folder),
        max_model_length=planned.flat.vllm_max_model_length,
    )


def _simulated(
    planned: Planned,
    manner: Manner,
    configs: Mapping[str, Mapping[str, Any]],
    profile_dirs: ProfileDirs,
    run_id: str | None,
) -> tuple[MemoryReport | None, str | None]:
    """The simulation's report, or None and why there is none: a measurement does not fail for it."""
    from vramplan.program.simulate import simulate

    setting = planned.prepared[0]
    try:
        found = simulate(
            as_autocast(setting),
            configs,
            gpu=with_workspace(setting.gpu, manner.cublas_workspace_config),
            stack=setting.stack,
            allocator=AllocatorConfig.parse(planned.conf),
            num_updates=min(manner.steps, 2),  # the third is like the second
        )
    except VramplanError as error:
        return None, f"not simulated: {error.message}"
    report = report_of(
        planned.flat, planned.prepared, found.phases, how="simulate", profile_dirs=profile_dirs, run_id=run_id
    )
    return report, None


def _with_snapshot(record: Record, snapshot: Path, folder: Path) -> Record:
    """The record, with the snapshot that it names put beside it; without one where the disk does not take it."""
    failure = record.out_of_memory
    if failure is None or failure.snapshot is None:
        return record
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / failure.snapshot).write_bytes(snapshot.read_bytes())
    except OSError as error:
        note = f"its snapshot cannot be written to {folder}: {error.strerror}"
        return replace(record, out_of_memory=replace(failure, snapshot=None), notes=(*record.notes, note))
    return record


def _raise_refusal(finished: Finished) -> None:
    end = finished.last("end")
    if end is not None and end["outcome"] == "refused":
        raise _ERRORS.get(end["exit_code"], CannotTellError)(end["message"], hint=end["hint"])


def _record(
    planned: Planned,
    manner: Manner,
    bench: Bench,
    finished: Finished,
    eye: Eye | None,
    baseline_used_bytes: int | None,
    guess: MemoryReport,
    simulation: MemoryReport | None,
    notes: list[str],
) -> Record:
    run = planned.prepared[0].run
    outcome, message = outcome_of(finished, manner.timeout_seconds)
    context = finished.last("context")
    when = now()
    driver = None if bench.card is None else bench.card.driver
    name = f"{planned.key}-{when.replace(':', '')}.pickle"
    versions = versions_of(finished, driver)
    engine, finished = engine_of(finished, run, versions), without_engine(finished)
    failure: RecordOutOfMemory | None = out_of_memory_of(finished, name)
    conf = RecordAllocator(
        conf=planned.conf,
        backend="unknown" if context is None else context["gpu"]["backend"],
        cublas_workspace_config=manner.cublas_workspace_config,
    )
    counted = None if engine is None else engine_note(engine)
    known = [note for note in (planned.weights.note, planned.note, bench.note, counted) if note is not None]
    return Record(
        run=planned.flat.to_dict(),
        how="measure",
        device=bench.device,
        weights=planned.weights.kind,
        steps=manner.steps if run.training is not None else None,
        versions=versions,
        gpu=gpu_of(finished, bench.card, eye, baseline_used_bytes=baseline_used_bytes, profile=bench.profile),
        allocator=conf,
        phases=phases_of(finished, eye),
        after_empty_cache=emptied_of(finished, eye),
        outcome=outcome,
        stopped_in=None if outcome == "done" else stopped_in(finished),
        message=message,
        out_of_memory=failure,
        engine=engine,
        estimate=prediction_of(guess),
        simulate=prediction_of(simulation),
        notes=(*known, *notes),
        when=when,
    )
