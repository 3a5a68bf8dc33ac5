"""Findings for people: one line each, as a linter's, and a rule explained."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Protocol

from vramplan.output.check_json import FileLike, FindingLike
from vramplan.output.explain import wrapped

_BOLD, _RED, _YELLOW, _RESET = "\x1b[1m", "\x1b[31m", "\x1b[33m", "\x1b[0m"


class RuleLike(Protocol):
    """What is shown of a rule."""

    @property
    def id(self) -> str:
        """`VP031`."""

    @property
    def title(self) -> str:
        """What it finds."""

    @property
    def why(self) -> str:
        """What happens if nothing is done."""

    @property
    def source(self) -> str:
        """Where that is known from."""

    @property
    def wrong(self) -> str:
        """An example with the problem."""

    @property
    def right(self) -> str:
        """The same without it."""

    @property
    def severity(self) -> Enum:
        """How bad it is."""

    @property
    def needs(self) -> Enum:
        """What it has to know."""


_NEEDS = {
    "files": "the files alone",
    "model": "the model's config.json",
    "card": "the model's config.json and the card (--gpu or --gpu-mem)",
}


def render_findings(files: Sequence[FileLike], *, colour: bool = False, hints: bool = False) -> str:
    """`file:key VP031 message`, one line a finding, and how many there are.

    Args:
        files: what was checked.
        colour: whether to write ANSI colours.
        hints: whether a line on what to do follows each finding.
    """
    lines: list[str] = []
    found = [finding for file in files for finding in file.findings]
    for finding in found:
        lines.append(_line(finding, colour=colour))
        if hints:
            lines.append(f"  hint: {finding.hint}")
    return "\n".join([*lines, _summary(files, found)]) + "\n"


def _line(finding: FindingLike, *, colour: bool) -> str:
    place, rule = f"{finding.file}:{' '.join(finding.key.split())}", finding.rule
    if colour:
        shade = _RED if finding.severity.value == "error" else _YELLOW
        place, rule = f"{_BOLD}{place}{_RESET}", f"{shade}{rule}{_RESET}"
    return f"{place} {rule} {' '.join(finding.message.split())}"  # a value of the file may hold line breaks


def _summary(files: Sequence[FileLike], found: Sequence[FindingLike]) -> str:
    read = sum(file.error is None for file in files)
    if not found:
        return f"Nothing found in {_number(read, 'file')}."
    errors = sum(finding.severity.value == "error" for finding in found)
    parts = [_number(number, word) for number, word in ((errors, "error"), (len(found) - errors, "warning")) if number]
    return f"Found {_number(len(found), 'problem')} in {_number(read, 'file')}: {', '.join(parts)}."


def _number(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def render_rule(rule: RuleLike, *, width: int = 80) -> str:
    """A rule in full: what it means, why, where that is known from, and an example wrong and right."""
    paragraphs = [
        wrapped(f"{rule.id}: {rule.title} ({rule.severity.value})", width),
        wrapped(rule.why, width),
        wrapped(f"It needs {_NEEDS[rule.needs.value]}.", width),
        ["Wrong:", *(f"    {line}" for line in rule.wrong.splitlines())],
        ["Right:", *(f"    {line}" for line in rule.right.splitlines())],
        wrapped(f"Source: {rule.source}", width, hanging=2),
    ]
    return "\n\n".join("\n".join(lines) for lines in paragraphs) + "\n"
