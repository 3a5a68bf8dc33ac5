"""`vramplan report`: what GPU logs say, whoever wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report_command(
    logs: Annotated[
        list[str] | None,
        typer.Argument(metavar="LOG…", help="CSV logs of vramplan, nvidia-smi or others; report JSON."),
    ] = None,
    query_gpu: Annotated[str | None, typer.Option("--query-gpu", help="The fields of a log without a header.")] = None,
    estimate: Annotated[
        str | None, typer.Option("--estimate", help="A report to hold the logs against (estimate --json > FILE).")
    ] = None,
    above: Annotated[
        list[str] | None, typer.Option("--above", help="Time above this: 80GB; may be repeated (80, 90, 95 %).")
    ] = None,
    capacity: Annotated[
        str | None, typer.Option("--capacity", help="The GPU's memory, for logs that do not say it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print vramplan.log-report/1.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print one line a GPU.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    html: Annotated[str | None, typer.Option("--html", help="Write one self-contained page.")] = None,
    png: Annotated[str | None, typer.Option("--png", help="Write the curve as a picture.")] = None,
    units: Annotated[str, typer.Option("--units", help="GB, GiB or bytes.")] = "GB",
) -> None:
    """Peak, mean, time above thresholds, growth, phases and gaps of GPU memory logs."""
    import sys

    from vramplan.errors import UsageError
    from vramplan.monitor.flags import as_path, checked_units

    if not logs:
        raise UsageError("no log is given", hint="vramplan report memory_log.csv")
    if as_json + as_csv + as_markdown > 1:
        raise UsageError("--json, --csv and --markdown print different things", hint="give one of them")
    checked_units(units)
    from vramplan.cli._monitor_report import gather
    from vramplan.output.log_report import log_report_document
    from vramplan.output.log_report_text import print_table, render_csv, render_markdown

    gathered = gather([Path(name) for name in logs], query_gpu, as_path(estimate), above or (), capacity)
    document = log_report_document(gathered.logs, gathered.plans)
    if html is not None:
        from vramplan.output.log_report_html import render_html

        _write(Path(html), render_html(document, gathered.series(), units=units).encode())
    if png is not None:
        from vramplan.output.log_report_png import render_png

        _write(Path(png), render_png(document, gathered.series(), units=units))
    if as_json:
        import json

        print(json.dumps(document, indent=1, ensure_ascii=False))
    elif as_csv:
        print(render_csv(document), end="")
    elif as_markdown:
        print(render_markdown(document, units), end="")
    else:
        print_table(document, units, sys.stdout)


report_command.plain_options = True  # type: ignore[attr-defined]


def _write(path: Path, content: bytes) -> None:
    import sys

    from vramplan.errors import UsageError

    try:
        path.write_bytes(content)
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror})") from None
    print(f"written: {path.resolve()}", file=sys.stderr)
