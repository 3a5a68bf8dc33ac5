"""`vramplan.check/1`: the findings as plain values, the same keys whatever was found."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

SCHEMA = "vramplan.check/1"


class FindingLike(Protocol):
    """What is shown of a finding; `vramplan.planner.check` has them, and output does not import the planner."""

    @property
    def rule(self) -> str:
        """Its id."""

    @property
    def severity(self) -> Enum:
        """`error` or `warning`."""

    @property
    def key(self) -> str:
        """The setting."""

    @property
    def file(self) -> Path:
        """Where the setting is written."""

    @property
    def line(self) -> int | None:
        """Its line."""

    @property
    def message(self) -> str:
        """One sentence."""

    @property
    def hint(self) -> str:
        """What to do."""

    @property
    def source(self) -> str:
        """Where the rule comes from."""

    @property
    def fixed(self) -> str | None:
        """The value that `--fix` writes."""


class FileLike(Protocol):
    """What is shown of a file that was checked."""

    @property
    def path(self) -> Path:
        """As it was named."""

    @property
    def tool(self) -> str | None:
        """Whose it is."""

    @property
    def findings(self) -> Sequence[FindingLike]:
        """What was found."""

    @property
    def error(self) -> tuple[str, str | None] | None:
        """Why it could not be read."""


def check_document(files: Sequence[FileLike]) -> dict[str, Any]:
    """The answer of `vramplan check --json`."""
    found = [finding for file in files for finding in file.findings]
    severities = [finding.severity.value for finding in found]
    return {
        "schema": SCHEMA,
        "files": [
            {
                "path": str(file.path),
                "tool": file.tool,
                "findings": [_finding(finding) for finding in file.findings],
                "error": None if file.error is None else {"message": file.error[0], "hint": file.error[1]},
            }
            for file in files
        ],
        "summary": {
            "files": len(files),
            "unreadable": sum(file.error is not None for file in files),
            "findings": len(found),
            "errors": severities.count("error"),
            "warnings": severities.count("warning"),
            "fixable": sum(finding.fixed is not None for finding in found),
        },
    }


def _finding(finding: FindingLike) -> dict[str, Any]:
    return {
        "rule": finding.rule,
        "severity": finding.severity.value,
        "file": str(finding.file),
        "line": finding.line,
        "key": finding.key,
        "message": finding.message,
        "hint": finding.hint,
        "source": finding.source,
        "fix": finding.fixed,
    }
