"""Every error a user can meet, with its exit code.

VramplanError
├── UsageError            2  a flag, a value or a file is wrong
├── DoesNotFitError       3  nothing found, or outside a tolerance
├── CannotTellError       4  the answer is not known: never a guess
│   ├── UnknownModelError
│   └── UnsupportedArchitectureError
└── NoHardwareError       5  no GPU, no driver, or no library that needs one
"""

from __future__ import annotations


class VramplanError(Exception):
    """A sentence for the user, with what to do about it.

    Args:
        message: one plain sentence, without a full stop.
        hint: what to do instead, or None.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(VramplanError, ValueError):
    """A flag, a value or a file is wrong."""

    exit_code = 2


class DoesNotFitError(VramplanError):
    """Nothing was found within the budget, or a result is outside its tolerance."""

    exit_code = 3


class CannotTellError(VramplanError):
    """The answer is not known, and a guess would be worse than saying so."""

    exit_code = 4


class UnknownModelError(CannotTellError):
    """No profile, file, cache entry or Hub repository has this name."""


class UnsupportedArchitectureError(CannotTellError):
    """The config's `model_type` has no reader, or a field the reader needs is missing."""


class NoHardwareError(VramplanError):
    """No GPU, no driver, or no library that reaches one."""

    exit_code = 5
