"""`vramplan log`: memory over time, in place of `nvidia-smi -l`."""

from __future__ import annotations

from typing import Annotated

import typer

CONTEXT_SETTINGS = {"allow_interspersed_args": False}
"""The first word that is no flag begins the command; `--` before it keeps its own flags as they are."""


def log_command(
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[-- COMMAND …]", help="Run this and log until it ends.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", "-f", "--filename", help="Append to this CSV file (default: standard output)."),
    ] = None,
    interval: Annotated[
        str | None, typer.Option("-i", "--interval", "-l", "--loop", help="Seconds between samples (5).")
    ] = None,
    loop_ms: Annotated[str | None, typer.Option("-lms", "--loop-ms", help="The same in milliseconds.")] = None,
    gpu: Annotated[
        list[str] | None,
        typer.Option("--gpu", "--id", help="Index, UUID or its beginning, PCI bus id; may be repeated (all)."),
    ] = None,
    format_: Annotated[
        str | None, typer.Option("--format", help="native, or nvidia-smi[,noheader][,nounits] (csv means the same).")
    ] = None,
    query_gpu: Annotated[
        str | None, typer.Option("--query-gpu", help="nvidia-smi's fields: timestamp,index,memory.used,…")
    ] = None,
    process_interval: Annotated[
        str | None,
        typer.Option("--process-interval", help="Seconds between process lists (5; a run's: 2; 0: never)."),
    ] = None,
    pid: Annotated[str | None, typer.Option("--pid", help="Follow this process and what it starts.")] = None,
    duration: Annotated[str | None, typer.Option("--duration", help="Stop after 90, 90s, 15m, 2h or 1d.")] = None,
    count: Annotated[str | None, typer.Option("--count", help="Stop after so many samples.")] = None,
    estimate: Annotated[
        str | None, typer.Option("--estimate", help="A report to hold the run against (estimate --json > FILE).")
    ] = None,
    fail_above: Annotated[
        str | None, typer.Option("--fail-above", help="Exit 3 if a GPU used more: 80GB, 75GiB.")
    ] = None,
    kill_above: Annotated[
        str | None, typer.Option("--kill-above", help="End the command cleanly if a GPU uses more, and exit 3.")
    ] = None,
    rotate_size: Annotated[
        str | None, typer.Option("--rotate-size", help="Begin NAME.1.csv, … before a file grows beyond this: 100MB.")
    ] = None,
    fsync: Annotated[str, typer.Option("--fsync", help="Reach the disk every so many samples (0: never asks).")] = "0",
    prometheus: Annotated[
        str | None, typer.Option("--prometheus", help="Serve the samples at [ADDRESS:]PORT (loopback unless told).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Begin a file anew that holds another kind of log.")] = False,
    tee: Annotated[bool, typer.Option("--tee", help="Print rows too, each after it is in the file.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Without the summary and the status line.")] = False,
    units: Annotated[str, typer.Option("--units", help="GB, GiB or bytes in the summary.")] = "GB",
) -> None:
    """Log GPU memory to CSV, by itself or around a command.

    Exit code: the command's own (128 + n when signal n ended it, 127 not found, 126 not executable); 128 + n when a
    signal ended the log; 3 above a limit; 5 without a driver.
    """
    from vramplan.monitor.flags import as_count, as_number, as_path, as_size
    from vramplan.monitor.options import LogOptions, parse_duration, parse_format, parse_interval, process_pace
    from vramplan.monitor.run_log import run_log

    seconds = parse_interval(as_number(interval, "--interval"), as_number(loop_ms, "--loop-ms"))
    watched_pid = as_count(pid, "--pid")
    options = LogOptions(
        output=as_path(output),
        format=parse_format(format_, query_gpu),
        interval_seconds=seconds,
        process_seconds=process_pace(
            as_number(process_interval, "--process-interval"),
            watched=bool(command) or watched_pid is not None,
            interval_seconds=seconds,
        ),
        selectors=tuple(gpu or ()),
        command=tuple(command or ()),
        pid=watched_pid,
        duration_seconds=parse_duration(duration),
        num_ticks=as_count(count, "--count"),
        fail_above_bytes=as_size(fail_above),
        kill_above_bytes=as_size(kill_above),
        estimate=as_path(estimate),
        rotate_bytes=as_size(rotate_size),
        fsync_ticks=as_count(fsync, "--fsync", least=0) or 0,
        force=force,
        tee=tee,
        quiet=quiet,
        units=units,
        prometheus=prometheus,
    )
    code = run_log(options, _say)
    if code:
        raise typer.Exit(code)


log_command.plain_options = True  # type: ignore[attr-defined]


def _say(line: str) -> None:
    """A line on standard error; where that is closed, logging goes on without it."""
    import contextlib
    import sys

    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)
