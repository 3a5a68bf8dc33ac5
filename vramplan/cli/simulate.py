"""`vramplan simulate`: what a run needs, from the real code on fake tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import typer

from vramplan.catalog.dirs import ProfileDirs
from vramplan.cli import _terminal
from vramplan.cli._answer import Asked, find_profiles, page_name, simulate_asked, with_profile
from vramplan.cli._files import check_parent, write_file, write_page, writing
from vramplan.cli._report import Output, choose_output, print_report
from vramplan.cli.exit_codes import ExitCode
from vramplan.cli.options import (
    OUTPUT,
    AsCsv,
    AsJson,
    AsMarkdown,
    Explain,
    Html,
    JsonLines,
    ProfileDirFlag,
    Units,
    run_flags,
)
from vramplan.core.report import MemoryReport
from vramplan.errors import UsageError
from vramplan.output.parquet import check_parquet, is_parquet, write_parquet
from vramplan.runfiles.flat import FlatRun
from vramplan.units import parse_bytes

Timeline = Annotated[
    str | None,
    typer.Option(
        "--timeline",
        metavar="FILE",
        help="Every allocation and free, as Parquet where FILE ends in .parquet, else as CSV.",
        rich_help_panel=OUTPUT,
    ),
]
SnapshotFile = Annotated[
    str | None,
    typer.Option(
        "--snapshot", metavar="FILE", help="A memory snapshot for pytorch.org/memory_viz.", rich_help_panel=OUTPUT
    ),
]
Capacity = Annotated[
    str | None,
    typer.Option(
        "--capacity",
        metavar="SIZE",
        help="A card's memory: say where the allocator would throw, for how much, and what holds it.",
        rich_help_panel=OUTPUT,
    ),
]


@run_flags
def simulate_command(
    flat: FlatRun,
    *,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    as_markdown: AsMarkdown = False,
    units: Units = "GB",
    explain: Explain = False,
    jsonl: JsonLines = None,
    html: Html = None,
    timeline: Timeline = None,
    snapshot: SnapshotFile = None,
    capacity: Capacity = None,
    profile_dir: ProfileDirFlag = None,
) -> None:
    """Run the real model code on fake tensors and replay PyTorch's allocator: no GPU, and no formula.

    Takes the flags of `vramplan estimate`, and needs the packages of `pip install 'vramplan[torch]'`.
    """
    output = choose_output(as_json=as_json, as_csv=as_csv, as_markdown=as_markdown, units=units, explain=explain)
    dirs = find_profiles(profile_dir)
    if jsonl is not None:
        if output.form not in ("table", "json") or explain or html or timeline or snapshot or capacity:
            raise UsageError("--jsonl answers in JSON lines only", hint="give --jsonl and flags of the run alone")
        from vramplan.cli.jsonl import answer_lines

        raise typer.Exit(answer_lines(jsonl, flat, dirs, simulated=True))
    for path in (html, timeline, snapshot):
        check_parent(path)  # before the work, not after it
    check_parquet(timeline)
    asked = with_profile(flat, dirs)
    room = None if capacity is None else parse_bytes(capacity)
    raise typer.Exit(_answer(asked, dirs, output, room, html=html, timeline=timeline, snapshot=snapshot))


def _answer(
    asked: Asked,
    dirs: ProfileDirs,
    output: Output,
    capacity_bytes: int | None,
    *,
    html: str | None,
    timeline: str | None,
    snapshot: str | None,
) -> ExitCode:
    found = simulate_asked(asked, dirs, capacity_bytes=capacity_bytes, progress=_terminal.say)
    report = found.report
    code = print_report(report, asked, output)
    if output.form == "table":
        _terminal.write_answer(_largest(report, output.units))
    if timeline is not None or snapshot is not None:
        from vramplan.program import history

        if timeline is not None:
            _write_timeline(timeline, history.Moment._fields, history.timeline(found.trace))
        if snapshot is not None:
            from vramplan.allocator.snapshot_writer import write_snapshot

            with writing(snapshot) as place:
                write_snapshot(history.snapshot(found.trace), place)
    if html is not None:
        write_page(html, report, name=page_name(asked), units=output.units)
    if report.out_of_room is not None:
        from vramplan.output.simulation_text import out_of_room_sentence

        _terminal.say(out_of_room_sentence(report.out_of_room, output.units))
        return ExitCode.DOES_NOT_FIT
    return code


def _write_timeline(path: str, header: Sequence[str], rows: Iterable[tuple[object, ...]]) -> None:
    if is_parquet(path):
        with writing(path) as place, place.open("wb") as file:
            write_parquet(file, header, rows)
        return
    from vramplan.output.simulation_text import render_timeline

    write_file(path, render_timeline(header, rows))


def _largest(report: MemoryReport, units: str) -> str:
    from vramplan.output.simulation_text import render_live

    width = _terminal.columns()
    text = "\n" + render_live("Largest tensors at the peak", report.live_tensors or (), units=units, width=width)
    failure = report.out_of_room
    if failure is not None:
        title = f"What held the memory when {failure.phase} asked for too much"
        text += "\n" + render_live(title, failure.live_tensors, units=units, width=width)
    return text
