"""A rich console that writes to a text: no markup, no guesses at what is to be highlighted."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def text_console(file: TextIO, *, width: int, colour: bool) -> Console:
    """A console of a given width.

    Args:
        file: what it writes to.
        width: columns.
        colour: whether to write ANSI colours.
    """
    from rich.console import Console

    return Console(
        file=file,
        width=width,
        color_system="standard" if colour else None,
        force_terminal=colour,
        no_color=not colour,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )


def plain_table(*, only_ascii: bool) -> Table:
    """A table with a ruled head and nothing else, in ASCII where the output has no lines to draw with."""
    from rich import box
    from rich.table import Table

    return Table(box=box.ASCII2 if only_ascii else box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
