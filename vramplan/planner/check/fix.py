"""`--fix`: a corrected copy of a file, line by line; comments, order and everything else stay as they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vramplan.planner.check.finding import CheckFinding
from vramplan.planner.check.run import CheckedFile
from vramplan.planner.check.scripts import APPEND, COMPOSE

_SCRIPT_RULES = frozenset({COMPOSE.id, APPEND.id})
_HYDRA_FLAG = re.compile(r"(?:--config-name|-cn)[=\s]+[\"']?[\w./-]+[\"']?")
_HYDRA_PATH = re.compile(r"(?:--config-path|-cp)[=\s]+[\"']?[\w./-]+[\"']?\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A corrected copy.

    Args:
        path: where it goes, beside the original.
        text: all of it.
    """

    path: Path
    text: str


def fixed_path(path: Path) -> Path:
    """`teacher.yaml` becomes `teacher.fixed.yaml`."""
    return path.with_name(f"{path.stem}.fixed{path.suffix}")


def corrected(file: CheckedFile, others: Sequence[CheckedFile] = ()) -> Copy | None:
    """The file with every finding mended for which there is one way only; None where there is none.

    A setting that stands in another file of a composed run is set in this one, which is composed after it.

    Args:
        file: what was checked.
        others: the files beside it; what they found in this one, as runs do in their launcher's file, is mended too.
    """
    beside = [finding for other in others for finding in other.findings if finding.file == file.path]
    fixable = [finding for finding in dict.fromkeys((*file.findings, *beside)) if finding.fixed is not None]
    if not fixable or file.error is not None:
        return None
    original = file.path.read_bytes().decode("utf-8")
    lines = original.splitlines(keepends=True)
    done: set[str] = set()
    changed = False
    for finding in fixable:
        if finding.key in done and finding.rule not in _SCRIPT_RULES:
            continue  # two rules on one setting: the first one's value holds
        if finding.rule in _SCRIPT_RULES:
            changed |= _command(lines, finding)
        elif finding.file == file.path and finding.line is not None:
            changed |= _value(lines, finding)
        elif file.tool == "rlt" and "." not in finding.key:
            changed |= _added(lines, finding)
        done.add(finding.key)
    return Copy(path=fixed_path(file.path), text="".join(lines)) if changed else None


def _value(lines: list[str], finding: CheckFinding) -> bool:
    """Put the value in place of the old one, on its own line."""
    index = (finding.line or 0) - 1
    if finding.fixed is None or not 0 <= index < len(lines):
        return False
    name = re.escape(finding.key.rpartition(".")[2])
    match = re.match(
        rf"(?P<head>.*?(?<![\w.-])[\"']?{name}[\"']?\s*[:=]\s*)"
        r"(?P<value>\"[^\"]*\"|'[^']*'|[^\s,#}\]]+)(?P<tail>.*)$",
        lines[index],
        re.DOTALL,
    )
    if match is None or "${" in match["value"] or match["value"] in "|>[{":
        return False
    is_json = finding.file.suffix == ".json"
    fixed = finding.fixed.strip("'\"") if not is_json and finding.file.suffix != ".toml" else finding.fixed
    lines[index] = f"{match['head']}{fixed if fixed != 'no' else repr('no')}{match['tail']}"
    return True


def _added(lines: list[str], finding: CheckFinding) -> bool:
    """Set the value at the end of this file, which Hydra composes over the one that has it."""
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    where = finding.file.name if finding.line is None else f"{finding.file.name}:{finding.line}"
    lines.append(f"{finding.key}: {finding.fixed}  # {finding.rule}: in place of {where}\n")
    return True


def _command(lines: list[str], finding: CheckFinding) -> bool:
    """Rewrite a Hydra command, on the line where it begins or on those that continue it."""
    if finding.fixed is None or finding.line is None:
        return False
    for index in _continued(lines, finding.line - 1):
        old = lines[index]
        if finding.rule == APPEND.id:
            new = old.replace(f"+{finding.fixed.replace('@_global_', '')}", finding.fixed)
        else:
            new = _HYDRA_PATH.sub("", _HYDRA_FLAG.sub(finding.fixed, old))
        lines[index] = new
        if finding.fixed in new and new != old:
            changed = True
            if finding.rule == APPEND.id:
                return True
            for later in _continued(lines, finding.line - 1):
                lines[later] = _HYDRA_PATH.sub("", lines[later])
            return changed
    return False


def _continued(lines: Sequence[str], start: int) -> range:
    end = start
    while end < len(lines) - 1 and lines[end].rstrip().endswith("\\"):
        end += 1
    return range(start, end + 1)
