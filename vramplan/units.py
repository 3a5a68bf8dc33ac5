"""Bytes as ints, and the only two converters between bytes and text.

GB is 10**9 bytes and GiB is 2**30: the two never mix, and a bare number on the command line means GB, as in
`torch.cuda.get_device_properties(0).total_memory / 1e9` and on the label of a card.
"""

from __future__ import annotations

import re
from decimal import Decimal

from vramplan.errors import UsageError

KB, MB, GB, TB = 10**3, 10**6, 10**9, 10**12
KiB, MiB, GiB, TiB = 2**10, 2**20, 2**30, 2**40

UNITS = {
    "B": 1,
    "KB": KB,
    "MB": MB,
    "GB": GB,
    "TB": TB,
    "KIB": KiB,
    "MIB": MiB,
    "GIB": GiB,
    "TIB": TiB,
}
MOST_BYTES = 10**18
DISPLAY_UNITS = ("GB", "GiB", "bytes")

_SIZE = re.compile(r"^\s*(?P<number>\d+(?:\.\d+)?(?:[eE]\+?\d+)?)\s*(?P<unit>[A-Za-z]*)\s*$")


def parse_bytes(text: str, *, default_unit: str = "GB") -> int:
    """Bytes from `85`, `85GB`, `80GiB` or `81559MiB`; a bare number is in `default_unit`.

    Raises:
        UsageError: the text is not a positive number with a known unit.
    """
    match = _SIZE.match(text)
    if match is None:
        raise UsageError(f"{text!r} is not a size", hint="write 85, 85GB, 80GiB or 81559MiB")
    unit = (match["unit"] or default_unit).upper()
    if unit not in UNITS:
        raise UsageError(
            f"{text!r} has the unknown unit {match['unit']!r}", hint="use one of B, MB, MiB, GB, GiB, TB, TiB"
        )
    num_bytes = int(Decimal(match["number"]) * UNITS[unit])
    if num_bytes > MOST_BYTES:
        raise UsageError(f"{text[:40]!r} is more memory than there is", hint="write 85, 85GB or 80GiB")
    if num_bytes <= 0:
        raise UsageError(f"{text!r} is not more than zero bytes", hint="write 85, 85GB or 80GiB")
    return num_bytes


def format_bytes(num_bytes: int, units: str = "GB", *, digits: int = 2) -> str:
    """A number without its unit, for a table that says its unit once: `21.35` for 21_350_000_000 in GB."""
    if units == "bytes":
        return f"{num_bytes:,}"
    divisor = {"GB": GB, "GiB": GiB}[units]
    return f"{num_bytes / divisor:.{digits}f}"
