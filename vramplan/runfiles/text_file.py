"""Text of a settings file, or one sentence on why there is none."""

from __future__ import annotations

from pathlib import Path

from vramplan.errors import UsageError

MOST_BYTES = 4_000_000
"""A settings file is a few kilobytes; this keeps a checkpoint or a log named by mistake out of the parsers."""


def read_text(path: Path) -> str:
    """The text of a file, which must not be blank.

    Raises:
        UsageError: it is not there, not readable, not text, too large for settings, or empty.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text", hint="name a YAML, JSON or TOML file") from error
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {path}") from error
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        reason = error.strerror if isinstance(error, OSError) else "its name is no file name"
        raise UsageError(f"{path} cannot be read: {reason}") from error
    if len(content) > MOST_BYTES:
        raise UsageError(f"{path} is larger than any settings file", hint="name the run's YAML file")
    if "\0" in text:
        raise UsageError(f"{path} is not text", hint="name a YAML, JSON or TOML file")
    if not text.strip():
        raise UsageError(f"{path} is empty", hint="name the run's settings file")
    return text
