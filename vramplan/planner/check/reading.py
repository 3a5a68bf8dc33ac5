"""The files of one `vramplan check`, read: runs, launchers beside them, scripts, and files that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vramplan.errors import UsageError, VramplanError
from vramplan.planner.check.scripts import has_hydra_commands, is_script
from vramplan.runfiles.flat import FlatRun
from vramplan.runfiles.runfile import RunFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One file that was named.

    Args:
        path: as it was named.
        run: its settings; None for a document, and where `error` is not.
        script: its text, where commands are looked for in it.
        error: the sentence and the hint of why it cannot be read.
        unread: why the run that a script starts could not be read, where its commands can.
        raw: its settings as they stand, where they contradict each other so that no run can be made of them.
    """

    path: Path
    run: RunFile | None = None
    script: str | None = None
    error: tuple[str, str | None] | None = None
    unread: str | None = None
    raw: RunFile | None = None


def read(path: Path) -> Read:
    """The file's settings, or why there are none; nothing is raised, so that the other files are checked too."""
    script = None
    try:
        if is_script(path):
            script = _text(path)
        from vramplan.runfiles.reader import read_run_file

        return Read(path=path, run=read_run_file(path), script=script)
    except VramplanError as error:
        is_document = path.suffix.lower() == ".md"
        if script is not None and (is_document or has_hydra_commands(script)):
            return Read(path=path, script=script, unread=None if is_document else error.message)
        return Read(path=path, script=script, error=(error.message, error.hint), raw=_as_it_stands(path))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not text in UTF-8") from error


def _as_it_stands(path: Path) -> RunFile | None:
    """Settings without the run that they describe, where the file is well-formed; else None."""
    from vramplan.runfiles.json_tree import json_tree
    from vramplan.runfiles.reader import tool_of
    from vramplan.runfiles.tree import flatten
    from vramplan.runfiles.yaml_tree import yaml_tree

    parsers = {".yaml": yaml_tree, ".yml": yaml_tree, ".json": json_tree}
    if path.suffix not in parsers or not path.is_file():
        return None
    try:
        tree = parsers[path.suffix](_text(path), path)
        return RunFile(tool=tool_of(tree, path), path=path, written=flatten(tree), flat=FlatRun(), unread=())
    except VramplanError:
        return None
