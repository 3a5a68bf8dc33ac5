"""Training commands: `trl grpo …`, `accelerate launch … script.py …`, `python train.py key=value …`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from vramplan.errors import UsageError
from vramplan.runfiles.flags import parse_flags
from vramplan.runfiles.hydra_command import is_hydra, read_hydra
from vramplan.runfiles.launch_command import launch_tree, rlt_launch
from vramplan.runfiles.reader import deepspeed_beside, unknown, with_launch
from vramplan.runfiles.runfile import RunFile, Tool, Written
from vramplan.runfiles.shell import Command, line_commands, script_commands
from vramplan.runfiles.text_file import read_text
from vramplan.runfiles.tree import Tree, flatten, merge
from vramplan.runfiles.trl_names import KNOWN
from vramplan.runfiles.trl_run import trl_run
from vramplan.runfiles.yaml_tree import yaml_tree

METHODS = ("sft", "dpo", "grpo")
_OTHER_METHODS = ("kto", "rloo", "reward", "distillation")  # trl 1.16 scripts
_LAUNCHERS = re.compile(r"(trl|accelerate|torchrun|deepspeed|python[0-9.]*)")
LINE = Path("command line")


@dataclass(slots=True, kw_only=True)
class _Parts:
    """A command taken apart.

    Args:
        launch: the launcher's settings.
        script: the training script, or the subcommand of trl.
        rest: the script's own words.
    """

    launch: Tree = field(default_factory=dict)
    script: str
    rest: Command


def read_command_line(command: str | Sequence[str], *, folder: Path | None = None) -> RunFile:
    """The run that a command starts.

    Args:
        command: the command, as a text or as its words.
        folder: where it is started, to find its files; the current folder by default.

    Raises:
        UsageError: it starts no training, or a setting is of the wrong kind.
    """
    folder = folder or Path()
    for words in line_commands(command):
        parts = _take_apart(words, LINE, folder)
        if parts is not None:
            return _read(parts, LINE, folder)
    raise UsageError("the command starts no training", hint="trl sft|dpo|grpo …, or accelerate launch train.py …")


def read_script(text: str, path: Path) -> RunFile:
    """The run that a script starts: its first training command.

    Raises:
        UsageError: it has none, or a setting is of the wrong kind.
    """
    for words in script_commands(text, path):
        parts = _take_apart(words, path, path.parent)
        if parts is not None:
            return _read(parts, path, path.parent)
    raise UsageError(
        f"{path} has no training command",
        hint="`trl sft|dpo|grpo …`, `accelerate launch train.py …`, `python train.py …`",
    )


def _take_apart(words: Command, path: Path, folder: Path) -> _Parts | None:
    own = rlt_launch(words, path)
    if own is not None:
        return _Parts(launch=own[0], script="train.py", rest=own[1])
    start = next((index for index, word in enumerate(words) if _LAUNCHERS.fullmatch(_name(word.text))), None)
    if start is None:
        return None
    launcher, rest = _name(words[start].text), words[start + 1 :]
    if launcher == "trl":
        if not rest or rest[0].text not in (*METHODS, *_OTHER_METHODS):
            return None
        return _Parts(script=rest[0].text, rest=rest[1:])
    if launcher == "accelerate":
        if not rest or rest[0].text != "launch":
            return None
        rest = rest[1:]
    split = _script(rest)
    if split is None:
        return None
    launch = launch_tree(launcher, parse_flags(rest[:split], path), path, folder)
    return _Parts(launch=launch, script=rest[split].text, rest=rest[split + 1 :])


def _name(word: str) -> str:
    return PurePosixPath(word).name


def _script(words: Command) -> int | None:
    """Where the script, or the module after `-m`, stands among a launcher's words."""
    for index, word in enumerate(words):
        if word.text.endswith(".py"):
            return index
        if word.text in ("-m", "--module") and index + 1 < len(words):
            return index + 1
    return None


def _read(parts: _Parts, path: Path, folder: Path) -> RunFile:
    if is_hydra(parts.rest):
        return _with(read_hydra(parts.script, parts.rest, path, folder), parts.launch)
    flags = parse_flags(parts.rest, path)
    tree: Tree = {}
    config = flags.file("config", folder)
    for named in [config] if config is not None else flags.positional_files(folder):
        merge(tree, yaml_tree(read_text(named), named))
    merge(tree, flags.tree)
    launch = dict(parts.launch)
    merge(launch, launch_tree("trl", flags, path, folder))
    method = _method(parts.script, path)
    written = flatten(tree)
    beside = deepspeed_beside(tree, "deepspeed", path)
    run = RunFile(
        tool=Tool.TRL,
        path=path,
        written=dict(beside) | written,
        flat=with_launch(trl_run(written, method=method), beside),
        unread=unknown(written, KNOWN),
    )
    return _with(run, launch)


def _with(run: RunFile, launch: Tree) -> RunFile:
    """A run under its launcher's settings."""
    settings: dict[str, Written] = flatten(launch)
    return RunFile(
        tool=run.tool,
        path=run.path,
        written=settings | dict(run.written),
        flat=with_launch(run.flat, settings),
        unread=run.unread,
    )


def _method(script: str, path: Path) -> str | None:
    """The method that a subcommand or a script is named after, None where its settings have to say."""
    words = re.split(r"[^a-z]+", _name(script).lower())
    if any(word in _OTHER_METHODS for word in words):
        raise UsageError(
            f"{path}: {script} trains with a method that is not modelled", hint=f"{', '.join(METHODS)} are"
        )
    return next((word for word in words if word in METHODS), None)
