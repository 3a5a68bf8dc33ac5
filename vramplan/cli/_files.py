"""Files that a command writes beside its answer, each said on stderr."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vramplan.cli import _terminal
from vramplan.core.report import MemoryReport
from vramplan.errors import UsageError


def check_parent(path: str | None) -> None:
    """Refuse a file in a folder that does not exist, before any work is done for it.

    Raises:
        UsageError: there is no such folder.
    """
    if path is not None and not Path(path).absolute().parent.is_dir():
        raise UsageError(f"{path} cannot be written: there is no folder {Path(path).parent}")


@contextmanager
def writing(path: str) -> Iterator[Path]:
    """The file to write inside; said on stderr once it is written.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        yield Path(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    _terminal.say(f"written: {path}")


def write_file(path: str, content: str | Iterable[str]) -> None:
    """Write a text file, whole or piece by piece.

    Raises:
        UsageError: it cannot be written.
    """
    with writing(path) as place, place.open("w", encoding="utf-8", newline="") as file:
        file.writelines((content,) if isinstance(content, str) else content)


def write_page(path: str, report: MemoryReport, *, name: str, units: str) -> None:
    """Write a report as one self-contained page.

    Raises:
        UsageError: it cannot be written, or the plotly package is not installed.
    """
    from vramplan.output.json_report import report_to_dict
    from vramplan.output.log_report_html import render_plan_html

    write_file(path, render_plan_html(name, report_to_dict(report), units=units))
