"""Hydra's command line: `train.py run_cfg@_global_=teacher_rlt train_batch_size=64 --config-name …`.

Source: hydra 1.3, "Basic Override syntax"; RLT's train.py takes `config_path="cfgs", config_name="train"`.
"""

from __future__ import annotations

import re
from pathlib import Path

from vramplan.runfiles.hydra import SUFFIXES, Composition, compose
from vramplan.runfiles.reader import rlt_file
from vramplan.runfiles.runfile import Place, RunFile
from vramplan.runfiles.shell import Command
from vramplan.runfiles.tree import Cell, put
from vramplan.runfiles.yaml_tree import yaml_scalar

_OVERRIDE = re.compile(r"(?P<mark>\+{1,2}|~)?(?P<key>[A-Za-z_][\w./@-]*)=(?P<value>.*)|~[\w./@-]+", re.DOTALL)
_OPTIONS = {"--config-path": "path", "-cp": "path", "--config-name": "name", "-cn": "name"}
CONFIG_PATH, CONFIG_NAME = "cfgs", "train"


def is_hydra(words: Command) -> bool:
    """Whether a script's words are Hydra's: overrides without dashes, or its options."""
    first = [word.text for word in words if not word.text.startswith("-")]
    options = any(word.text.partition("=")[0] in _OPTIONS for word in words)
    plain = any(word.text.startswith("--") and word.text.partition("=")[0] not in _OPTIONS for word in words)
    return options or (not plain and bool(first) and all(_OVERRIDE.fullmatch(word) for word in first))


def read_hydra(script: str, words: Command, path: Path, folder: Path) -> RunFile:
    """The run of a Hydra command, composed where its tree can be reached, else what the command alone says.

    Raises:
        UsageError: a file of the tree cannot be read, or a setting is of the wrong kind.
    """
    options = {"path": CONFIG_PATH, "name": CONFIG_NAME}
    overrides: list[tuple[str, Cell]] = []
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        name, equals, value = word.text.partition("=")
        if name in _OPTIONS:
            if not equals and index < len(words):
                value = words[index].text
                index += 1
            options[_OPTIONS[name]] = value
            continue
        match = _OVERRIDE.fullmatch(word.text)
        if match is not None and match["key"] is not None and match["mark"] != "~":
            cell = Cell(value=yaml_scalar(match["value"]), place=Place(file=path, line=word.line))
            overrides.append((match["key"], cell))
    composed = _compose(Path(script).parent, options, overrides, folder)
    return rlt_file(composed, path)


def _compose(beside: Path, options: dict[str, str], overrides: list[tuple[str, Cell]], folder: Path) -> Composition:
    root, primary = _primary(beside, options, folder)
    groups = {key: cell.value for key, cell in overrides if "@" in key or (root / key).is_dir()}
    composed = Composition() if primary is None else compose(root, primary, groups)
    for key, cell in overrides:
        if key not in groups:
            put(composed.tree, key, cell)
    return composed


def _primary(beside: Path, options: dict[str, str], folder: Path) -> tuple[Path, Path | None]:
    """The configuration folder and its primary config; Hydra looks from the script's folder."""
    for base in (folder / beside, beside, folder):
        root = base / options["path"]
        for suffix in ("", *SUFFIXES):
            candidate = root / f"{options['name']}{suffix}"
            if candidate.suffix in SUFFIXES and candidate.is_file():
                return root, candidate
    return folder / beside / options["path"], None
