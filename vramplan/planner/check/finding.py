"""What a rule says of a file: the problem as the rule sees it, and the finding that people and programs read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from vramplan.runfiles.runfile import Written


class Severity(str, Enum):
    """How bad it is."""

    ERROR = "error"  # the run stops, or is another run than the file says
    WARNING = "warning"  # the run goes on, and takes memory that its author did not mean it to


class Needs(str, Enum):
    """What a rule has to know beside the files."""

    FILES = "files"
    MODEL = "model"  # the model's config.json
    CARD = "card"  # --gpu or --gpu-mem, and the model


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that a rule found.

    Args:
        at: the setting it concerns; None where it is a default that no file writes.
        key: the setting's name, where `at` is None.
        message: one sentence, without a full stop.
        hint: what to do about it.
        fixed: the value that makes it right, where there is only one; written as YAML, JSON and TOML all read it.
        severity: where it differs from the rule's own.
    """

    at: Written | None
    key: str = ""
    message: str
    hint: str
    fixed: str | None = None
    severity: Severity | None = None

    def __post_init__(self) -> None:
        if self.at is None and not self.key:
            raise ValueError("a problem needs a setting or a key")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckFinding:
    """A problem with its rule and its place.

    Args:
        rule: its id, `VP031`.
        severity: error or warning.
        key: the dotted setting.
        file: the file it is written in, or the checked file for a default.
        line: from 1 on, or None.
        message: one sentence.
        hint: what to do about it.
        source: where the rule comes from.
        fixed: the value that `--fix` writes, or None.
    """

    rule: str
    severity: Severity
    key: str
    file: Path
    line: int | None
    message: str
    hint: str
    source: str
    fixed: str | None = None
