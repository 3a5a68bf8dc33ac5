"""Where output goes: stdout for the answer alone, stderr for everything else."""

from __future__ import annotations

import os
import shutil
import sys

from vramplan.errors import UsageError


def write_answer(text: str) -> bool:
    """Write to stdout and flush; False when its reader has gone (`vramplan … | head`), which is no error.

    Raises:
        UsageError: it cannot be written, as on a full disk.
    """
    if sys.stdout is None:  # closed by the shell: `>&-`
        return False
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        drop_stdout()
        return False
    except OSError as error:
        drop_stdout()
        raise UsageError(f"the answer cannot be written: {error.strerror}") from error
    return True


def drop_stdout() -> None:
    """Send what is left for stdout nowhere, so that Python's own flush at exit does not fail again."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - it lives as long as the process


def say(line: str) -> None:
    """A line for stderr."""
    print(line, file=sys.stderr)


def say_error(message: str, hint: str | None) -> None:
    """`error: …`, then `hint: …`."""
    say(f"error: {message}")
    if hint:
        say(f"hint: {hint}")


def columns() -> int:
    """Width to write at: COLUMNS, the terminal's, else 80."""
    return max(40, shutil.get_terminal_size().columns)


def has_colour() -> bool:
    """Whether stdout is a terminal that wants colours (no-color.org: any non-empty NO_COLOR says no)."""
    return _is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def only_ascii() -> bool:
    """Whether stdout's encoding lacks the characters that tables are ruled with."""
    try:
        "─×".encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return True
    return False


def _is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()
