"""A training run that ends without reaching its end: what Python says of it when the process leaves."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

from vramplan.units import parse_bytes

# c10/cuda/CUDACachingAllocator.cpp: "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …"
_ASKED = re.compile(r"Tried to allocate (\d+(?:\.\d+)? [KMGT]iB)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How it ended.

    Args:
        outcome: one of a record's.
        message: one sentence.
        requested_bytes: what was asked for where memory ran out, or None.
    """

    outcome: str
    message: str
    requested_bytes: int | None = None


def ending() -> Ending:
    """How the process ends: by the exception that Python printed, if one was."""
    error = getattr(sys, "last_value", None)
    if error is None:
        return Ending(outcome="interrupted", message="the process left before the training reached its end")
    return ending_of(error)


def ending_of(error: BaseException) -> Ending:
    """The same from the exception."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    message = f"{type(error).__name__}: {first}" if first else type(error).__name__
    if isinstance(error, KeyboardInterrupt):
        return Ending(outcome="interrupted", message="interrupted from the keyboard")
    if type(error).__name__ == "OutOfMemoryError":  # torch.OutOfMemoryError, or torch.cuda's before 2.5
        asked = _ASKED.search(str(error))
        return Ending(
            outcome="out_of_memory",
            message=message,
            requested_bytes=None if asked is None else parse_bytes(asked[1].replace(" ", "")),
        )
    return Ending(outcome="failed", message=message)
