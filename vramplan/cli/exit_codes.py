"""Exit codes, the same for every command (DESIGN.md, "The command line")."""

from __future__ import annotations

from enum import IntEnum

from vramplan.core.report import MemoryReport, Verdict


class ExitCode(IntEnum):
    """What a script may rely on."""

    DONE = 0  # and it fits, or may fit, where a budget was given
    CRASH = 1
    USAGE = 2  # a flag, a value or a file is wrong
    DOES_NOT_FIT = 3  # or nothing was found, or a result is outside its tolerance
    CANNOT_TELL = 4  # unsupported architecture, missing field
    NO_HARDWARE = 5
    INTERRUPTED = 130  # 128 + SIGINT


def verdict_code(report: MemoryReport) -> ExitCode:
    """3 when the report says that the run does not fit; an uncertain one is 0, with a warning."""
    fails = report.budget is not None and report.budget.verdict is Verdict.DOES_NOT_FIT
    return ExitCode.DOES_NOT_FIT if fails else ExitCode.DONE
