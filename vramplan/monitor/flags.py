"""Numbers that flags give as text: each read here once, with one sentence for what is wrong with it."""

from __future__ import annotations

import math
from pathlib import Path

from vramplan.errors import UsageError
from vramplan.units import parse_bytes


def as_count(text: str | None, flag: str, *, least: int = 1) -> int | None:
    """A whole number of at least `least`; None for a flag that was not given.

    Raises:
        UsageError: it is none.
    """
    if text is None:
        return None
    if not text.strip().isdecimal() or int(text) < least:
        raise UsageError(f"{flag} {text} is not a whole number from {least} on")
    return int(text)


def as_number(text: str | None, flag: str) -> float | None:
    """A finite number; None for a flag that was not given.

    Raises:
        UsageError: it is none.
    """
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{flag} {text} is not a number")
    return value


def as_size(text: str | None) -> int | None:
    """Bytes; None for a flag that was not given.

    Raises:
        UsageError: it is no size.
    """
    return None if text is None else parse_bytes(text)


def as_path(text: str | None) -> Path | None:
    """A path; None for a flag that was not given."""
    return None if text is None else Path(text)


def checked_units(text: str) -> str:
    """GB, GiB or bytes.

    Raises:
        UsageError: another unit.
    """
    if text not in ("GB", "GiB", "bytes"):
        raise UsageError(f"--units {text} is not known", hint="use GB, GiB or bytes")
    return text
