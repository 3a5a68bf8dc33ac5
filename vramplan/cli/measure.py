"""`vramplan measure`: what a run takes on a real GPU, beside what estimate and simulate say."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from vramplan.catalog.dirs import ProfileDirs
from vramplan.cli import _terminal
from vramplan.cli._answer import Asked, find_profiles, page_name, with_profile
from vramplan.cli._files import check_parent, write_page
from vramplan.cli._report import Output, choose_output, print_report
from vramplan.cli.exit_codes import ExitCode, verdict_code
from vramplan.cli.options import (
    AsCsv,
    AsJson,
    AsMarkdown,
    Html,
    ProfileDirFlag,
    Units,
    run_flags,
)
from vramplan.errors import UsageError
from vramplan.output.words import warning_lines
from vramplan.planner.bench import Bench, open_bench
from vramplan.planner.measure_plan import LONGEST_SECONDS, Manner, plan_run
from vramplan.planner.measured import Measured, measure_run
from vramplan.records.record import WEIGHTS
from vramplan.records.store import append_record, folder_name
from vramplan.runfiles.flat import FlatRun

MEASURING = "Measuring"
_ENDING = (signal.SIGTERM, signal.SIGHUP)
_SEVERAL = 2
_WHOLE = re.compile("[0-9]{1,9}")


def _option(name: str, metavar: str | None, text: str) -> object:
    return typer.Option(name, metavar=metavar, help=text, rich_help_panel=MEASURING)


WeightsFlag = Annotated[
    str | None,
    _option(
        "--weights",
        "|".join(WEIGHTS),
        "What is loaded: the model's checkpoint (the default, where one is on this machine), random weights straight "
        "onto the device (else), or a checkpoint of random weights written first.",
    ),
]
Steps = Annotated[str, _option("--steps", "N", "Optimizer updates; states exist from the second on.")]
Timeout = Annotated[str, _option("--timeout", "SECONDS", "A run that takes longer is ended.")]
Conf = Annotated[str | None, _option("--allocator-conf", "TEXT", "PYTORCH_ALLOC_CONF of the measuring process.")]
Cublas = Annotated[
    str | None, _option("--cublas-workspace-config", "TEXT", "CUBLAS_WORKSPACE_CONFIG of the measuring process.")
]
DeviceFlag = Annotated[str, _option("--device", "N", "Which GPU, as CUDA counts here.")]
Keep = Annotated[bool, _option("--record", None, "Keep the record under profiles/measurements/GPU/.")]
OutputFile = Annotated[str | None, _option("--output", "FILE", "Append the record to a JSONL file.")]
MatrixFlag = Annotated[
    str | None,
    _option("--matrix", "FILE.toml|NAME", "Many runs, each with a record; those that have one are skipped."),
]
Roles = Annotated[
    bool, _option("--roles", None, "Only where the run has several models: all of them are measured together anyway.")
]
Simulates = Annotated[
    bool, typer.Option("--simulate/--no-simulate", help="Also simulate each run.", rich_help_panel=MEASURING)
]


@run_flags
def measure_command(
    flat: FlatRun,
    *,
    weights: WeightsFlag = None,
    steps: Steps = "2",
    timeout: Timeout = "600",
    allocator_conf: Conf = None,
    cublas_workspace_config: Cublas = None,
    device: DeviceFlag = "0",
    record: Keep = False,
    output: OutputFile = None,
    matrix: MatrixFlag = None,
    simulates: Simulates = True,
    roles: Roles = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    as_markdown: AsMarkdown = False,
    units: Units = "GB",
    html: Html = None,
    profile_dir: ProfileDirFlag = None,
) -> None:
    """Run it on a GPU, in a process of its own, and put what it took beside what estimate and simulate say.

    Takes the flags of `vramplan estimate`, and needs a GPU and the packages of `pip install 'vramplan[torch]'`.
    """
    form = choose_output(as_json=as_json, as_csv=as_csv, as_markdown=as_markdown, units=units, explain=False)
    for path in (html, output):
        check_parent(path)  # before the work, not after it
    if record and output is not None:
        raise UsageError("--record and --output cannot go together", hint="give one of them")
    if flat.stack:
        raise UsageError("measure runs what is installed: it takes no --stack", hint="install those versions instead")
    if weights is not None and weights not in WEIGHTS:
        raise UsageError(f"--weights must be one of {', '.join(WEIGHTS)}, not {weights!r}")
    manner = Manner(
        weights=weights,
        steps=_whole("--steps", steps, least=1),
        timeout_seconds=_seconds(timeout),
        conf=allocator_conf,
        cublas_workspace_config=cublas_workspace_config or os.environ.get("CUBLAS_WORKSPACE_CONFIG") or None,
        simulates=simulates,
    )
    dirs = find_profiles(profile_dir)
    number = _whole("--device", device, least=0)
    if matrix is not None:
        if flat.given() or roles or html is not None:
            raise UsageError("--matrix says itself what runs", hint="leave out flags of a run, and --html")
        from vramplan.cli._measure_matrix import measure_matrix

        with _ended_as_by_ctrl_c():
            raise typer.Exit(measure_matrix(matrix, manner, number, dirs, form, output))
    asked = with_profile(flat, dirs)
    bench = open_bench(number, dirs)
    place = record_file(bench, dirs, "runs") if record else None if output is None else Path(output)
    with _ended_as_by_ctrl_c():
        raise typer.Exit(_measure(asked, manner, bench, dirs, form, place, html, roles=roles))


@contextmanager
def _ended_as_by_ctrl_c() -> Iterator[None]:
    """SIGTERM and SIGHUP as KeyboardInterrupt: what was measured is kept, and no folder of weights is left behind."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    numbers = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]  # nohup's stays ignored
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    for number in numbers:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def record_file(bench: Bench, dirs: ProfileDirs, name: str) -> Path:
    """Where records of this card are kept: beside a checkout's profiles, else below the working folder.

    Raises:
        UsageError: there is no card.
    """
    if bench.device == "cpu":
        raise UsageError("a CPU's numbers are not kept among measurements", hint="use --output FILE.jsonl")
    installed = dirs.shipped.name == "_profiles"  # inside site-packages: nothing of a user's belongs there
    root = Path("profiles") if installed else dirs.shipped
    return root / "measurements" / folder_name(bench.gpu_name) / f"{name}.jsonl"


def _measure(
    asked: Asked,
    manner: Manner,
    bench: Bench,
    dirs: ProfileDirs,
    form: Output,
    place: Path | None,
    html: str | None,
    *,
    roles: bool,
) -> ExitCode:
    if place is not None:
        manner = replace(manner, snapshots=place.parent)
    planned = plan_run(asked.flat, manner, bench, dirs)
    if roles and len(planned.prepared[0].run.roles) < _SEVERAL:
        raise UsageError("--roles is of runs with several models", hint="name them: --teacher ID --student ID")
    measured = measure_run(planned, manner, bench, profile_dirs=dirs, progress=_terminal.say)
    unwritten: UsageError | None = None
    try:
        if place is not None:
            append_record(place, measured.record)
            _terminal.say(f"written: {place}, record {measured.record.id}")
    except UsageError as error:  # what took minutes to measure is still answered
        unwritten = error
    code = _print(measured, asked, form)
    if unwritten is not None:
        raise unwritten
    if html is not None and measured.report is not None:
        write_page(html, measured.report, name=page_name(asked), units=form.units)
    return code


def _print(measured: Measured, asked: Asked, form: Output) -> ExitCode:
    record, report = measured.record, measured.report
    if form.form == "table":
        from vramplan.output.measured_text import render_measured

        for line in () if report is None else warning_lines(report):
            _terminal.say(line)
        _terminal.write_answer(render_measured(record, report, units=form.units, width=_terminal.columns()))
    elif report is not None:
        print_report(report, asked, form)
    if record.outcome == "interrupted":
        return ExitCode.INTERRUPTED
    if record.out_of_memory is not None:
        _terminal.say(f"out of memory in {record.out_of_memory.phase}")
        return ExitCode.DOES_NOT_FIT
    if record.outcome != "done":
        where = f" in {record.stopped_in}" if record.stopped_in else ""
        _terminal.say_error(f"{record.outcome.replace('_', ' ')}{where}: {record.message}", None)
        return ExitCode.CRASH
    return ExitCode.DONE if report is None else verdict_code(report)


def _whole(flag: str, text: str, *, least: int) -> int:
    if not _WHOLE.fullmatch(text) or int(text) < least:
        raise UsageError(f"{flag} must be a whole number of at least {least}, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= LONGEST_SECONDS:
        raise UsageError(f"--timeout must be a number of seconds above 0 and up to a week, not {text!r}")
    return seconds
