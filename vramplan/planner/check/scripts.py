"""Commands in scripts and documents: forms that Hydra cannot compose, or composes into something else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from vramplan.planner.check.finding import CheckFinding
from vramplan.planner.check.rule import Rule

SCRIPT_SUFFIXES = frozenset({".sh", ".bash", ".md", ".txt"})

_NAME = re.compile(r"(?:--config-name|-cn)[=\s]+(?P<quote>[\"']?)(?P<name>[\w./-]+)(?P=quote)")
_PATH = re.compile(r"(?:--config-path|-cp)[=\s]+(?P<quote>[\"']?)(?P<path>[\w./-]+)(?P=quote)")
_APPENDED = re.compile(r"(?<![\w.@=/+-])\+(?P<group>(?:run|trainer|model|data)_cfg)=(?P<name>[\w./-]+)")
_PROGRAM = re.compile(r"\btrain\.py\b")

COMPOSE = Rule(
    id="VP058",
    title="a command that Hydra cannot compose",
    why="A file of run_cfg overrides groups that only cfgs/train.yaml lists. Named as the primary config it stands "
    "alone, and Hydra stops: Could not override 'model_cfg@_global_'. No match in the defaults list.",
    source="hydra 1.3.8, run: ConfigCompositionException; RLT launch.sh 41 has the form that works",
    wrong="python train.py --config-path=cfgs/run_cfg --config-name=teacher_rlt_mono",
    right="python train.py run_cfg@_global_=teacher_rlt_mono",
)
APPEND = Rule(
    id="VP059",
    title="a run_cfg that lands in a package of its own",
    why="+run_cfg=NAME adds the file under the key run_cfg, beside the default run_cfg@_global_, so its settings are "
    "read by nothing; overrides in it take effect all the same.",
    source="hydra 1.3.8, run: the composed config has run_cfg.KEY and the old KEY",
    wrong="python train.py +run_cfg=teacher_rlt",
    right="python train.py run_cfg@_global_=teacher_rlt",
)
SCRIPT_RULES = (COMPOSE, APPEND)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A line of a script with the lines that continue it.

    Args:
        line: its first line, from 1 on.
        text: all of it, without the continuing backslashes.
    """

    line: int
    text: str


def commands(text: str) -> Iterator[Command]:
    """The script's lines, continued ones together; comments of shell scripts left out by their `#`."""
    start = 1
    parts: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not parts:
            start = number
        parts.append(line.rstrip().removesuffix("\\"))
        if not line.rstrip().endswith("\\"):
            yield Command(line=start, text=" ".join(parts))
            parts = []
    if parts:
        yield Command(line=start, text=" ".join(parts))


def is_script(path: Path) -> bool:
    """Whether commands are looked for in this file."""
    return path.suffix.lower() in SCRIPT_SUFFIXES


def has_hydra_commands(text: str) -> bool:
    """Whether the text runs RLT's train.py."""
    return _PROGRAM.search(text) is not None


def check_script(path: Path, text: str) -> Iterator[CheckFinding]:
    """What Hydra would make of the commands of a script or a document."""
    if not has_hydra_commands(text):
        return
    for command in commands(text):
        if path.suffix.lower() != ".md" and command.text.lstrip().startswith("#"):
            continue
        if _PROGRAM.search(command.text):
            yield from _primary(path, command)
        for match in _APPENDED.finditer(command.text):
            group, name = match["group"], match["name"]
            yield _finding(
                APPEND,
                path,
                command,
                key=f"+{group}",
                message=f"+{group}={name} puts the file's settings under {group}, which nothing reads; the default "
                f"{group}@_global_ stays",
                hint=f"write {group}@_global_={name}",
                fixed=f"{group}@_global_={name}",
            )


def _primary(path: Path, command: Command) -> Iterator[CheckFinding]:
    named, folder = _NAME.search(command.text), _PATH.search(command.text)
    if named is None:
        return
    where = Path(folder["path"] if folder else "cfgs") / named["name"]
    group, name = where.parent.name, where.name.removesuffix(".yaml")
    base = next((one for one in _bases(path) if (one / where.parent).is_dir()), None)
    if base is None:
        if group.endswith("_cfg"):
            yield _no_primary(path, command, group, name, exists=True)
        return
    file = base / where.parent / f"{name}.yaml"
    if not file.is_file():
        there = sorted(one.stem for one in file.parent.glob("*.yaml"))
        near = get_close_matches(name, there, n=1) or there[:8]
        yield _finding(
            COMPOSE,
            path,
            command,
            key="--config-name",
            message=f"there is no {where.parent / name}.yaml to compose",
            hint=f"{where.parent} has {', '.join(near)}" if near else f"{where.parent} has no config at all",
        )
    elif _overrides_elsewhere(file):
        yield _no_primary(path, command, group, name, exists=group.endswith("_cfg"))


def _no_primary(path: Path, command: Command, group: str, name: str, *, exists: bool) -> CheckFinding:
    return _finding(
        COMPOSE,
        path,
        command,
        key="--config-name",
        message=f"{group}/{name} cannot be the primary config: it overrides groups that only train.yaml lists, and "
        "Hydra stops with \"Could not override 'model_cfg@_global_'. No match in the defaults list\"",
        hint=f"write train.py {group}@_global_={name}",
        fixed=f"{group}@_global_={name}" if exists else None,
    )


def _bases(path: Path) -> Iterator[Path]:
    """Folders that a command's paths may be relative to: the script's, those above it, and the current one."""
    yield from list(path.absolute().parents)[:3]
    yield Path.cwd()


def _overrides_elsewhere(file: Path) -> bool:
    """Whether a config overrides a group that its own defaults list does not have before."""
    from vramplan.errors import UsageError
    from vramplan.runfiles.yaml_tree import yaml_tree

    try:
        defaults = yaml_tree(file.read_text(encoding="utf-8"), file).get("defaults")
    except (UsageError, OSError, UnicodeDecodeError):
        return False
    listed: set[str] = set()
    entries = None if defaults is None or isinstance(defaults, dict) else defaults.value
    for entry in entries if isinstance(entries, list) else ():
        for key in entry if isinstance(entry, dict) else ():
            word, _, group = str(key).rpartition(" ")
            group = group.removeprefix("/")
            if word.strip() == "override" and group not in listed:
                return True
            listed.add(group)
    return False


def _finding(
    rule: Rule, path: Path, command: Command, *, key: str, message: str, hint: str, fixed: str | None = None
) -> CheckFinding:
    return CheckFinding(
        rule=rule.id,
        severity=rule.severity,
        key=key,
        file=path,
        line=command.line,
        message=message,
        hint=hint,
        source=rule.source,
        fixed=fixed,
    )
