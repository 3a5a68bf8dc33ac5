"""`vramplan estimate`: what a run needs, from config.json alone."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from vramplan.cli._answer import answer_run, find_profiles, page_name, with_profile
from vramplan.cli._files import write_page
from vramplan.cli._report import choose_output, print_report
from vramplan.cli.options import (
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
from vramplan.errors import UsageError
from vramplan.runfiles.flat import FlatRun


@run_flags
def estimate_command(
    flat: FlatRun,
    *,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    as_markdown: AsMarkdown = False,
    units: Units = "GB",
    explain: Explain = False,
    jsonl: JsonLines = None,
    html: Html = None,
    profile_dir: ProfileDirFlag = None,
) -> None:
    """Say how much GPU memory a run needs, from closed formulas on each model's config.json.

    --gpu-mem 85 alone runs the shipped profile rlt-85gb-conservative. A MODEL alone is an inference run.
    Flags may be written with _ for -, and as TRL and transformers spell them (--load_in_8bit, --num_generations).
    """
    output = choose_output(as_json=as_json, as_csv=as_csv, as_markdown=as_markdown, units=units, explain=explain)
    dirs = find_profiles(profile_dir)
    if jsonl is not None:
        if output.form not in ("table", "json") or explain or html is not None:
            raise UsageError(
                "--jsonl answers in JSON lines only", hint="leave out --csv, --markdown, --explain and --html"
            )
        from vramplan.cli.jsonl import answer_lines

        with _collecting_rarely():
            raise typer.Exit(answer_lines(jsonl, flat, dirs))
    asked = with_profile(flat, dirs)
    with _collecting_rarely():
        report = answer_run(asked, dirs)
    code = print_report(report, asked, output)
    if html is not None:
        write_page(html, report, name=page_name(asked), units=output.units)
    raise typer.Exit(code)


@contextmanager
def _collecting_rarely() -> Iterator[None]:
    """Look for reference cycles less often than at every 700 objects.

    An estimate makes many small objects and leaves few cycles (the allocator's chains of blocks). Looking for them took
    1.05 ms of each line of `--jsonl`, a twentieth of its time, and takes a quarter of that at every 50,000 objects
    (Python 3.11.7), for 20 MiB more in the process. Workers are forked inside, and inherit it.
    """
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)
