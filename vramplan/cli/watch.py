"""`vramplan watch`: the live view, in place of `watch -n 1 nvidia-smi`."""

from __future__ import annotations

from typing import Annotated

import typer


def watch_command(
    interval: Annotated[str, typer.Option("-i", "--interval", "-n", help="Seconds between samples.")] = "1",
    gpu: Annotated[
        list[str] | None,
        typer.Option("--gpu", "--id", help="Index, UUID or its beginning, PCI bus id; may be repeated (all)."),
    ] = None,
    estimate: Annotated[
        str | None, typer.Option("--estimate", help="A report whose peak is marked (estimate --json > FILE).")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print once and leave; so does a pipe.")] = False,
    ascii_only: Annotated[bool, typer.Option("--ascii", help="Without Unicode, whatever the terminal says.")] = False,
    units: Annotated[str, typer.Option("--units", help="GB, GiB or bytes.")] = "GB",
) -> None:
    """Used, reserved and free memory of each GPU, its recent past, its processes, and the highest so far; q quits."""
    import sys

    from rich.console import Console
    from rich.live import Live

    from vramplan.cli._monitor_watch import frame
    from vramplan.monitor.flags import as_number, as_path, checked_units
    from vramplan.monitor.options import parse_interval
    from vramplan.monitor.prediction import read_prediction
    from vramplan.monitor.run_watch import WatchView, watch_live, watch_once

    checked_units(units)
    seconds = parse_interval(as_number(interval, "--interval"), None)
    report = as_path(estimate)
    prediction = None if report is None else read_prediction(report)
    console = Console(highlight=False, legacy_windows=False)
    unicode = not ascii_only and _shows_unicode(console.encoding)
    if once or not sys.stdout.isatty():
        view = watch_once(gpu or (), prediction)
        console.print(frame(view, console.width, units, unicode=unicode), end="", soft_wrap=True)
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:

        def show(view: WatchView) -> None:
            live.update(frame(view, console.width, units, unicode=unicode, is_live=True), refresh=True)

        code = watch_live(gpu or (), prediction, seconds, show)
    if code:
        raise typer.Exit(code)


watch_command.plain_options = True  # type: ignore[attr-defined]


def _shows_unicode(encoding: str) -> bool:
    try:
        "█░▒┃▁°".encode(encoding)
    except (LookupError, UnicodeEncodeError):
        return False
    return True
