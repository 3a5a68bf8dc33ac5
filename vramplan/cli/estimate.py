"""`vramplan estimate`: what a run needs, from config.json alone."""

from __future__ import annotations

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

        raise typer.Exit(answer_lines(jsonl, flat, dirs))
    asked = with_profile(flat, dirs)
    report = answer_run(asked, dirs)
    code = print_report(report, asked, output)
    if html is not None:
        write_page(html, report, name=page_name(asked), units=output.units)
    raise typer.Exit(code)
