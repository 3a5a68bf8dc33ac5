"""Flags of a training script as settings: `--key value`, `--key=value`, `--key a b`, `--switch`, `--no_switch`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from vramplan.runfiles.runfile import Place
from vramplan.runfiles.shell import Command, Word
from vramplan.runfiles.tree import Cell, Tree, from_values
from vramplan.runfiles.trl_names import KNOWN

_INTEGER = re.compile(r"[-+]?\d{1,18}")
_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


@dataclass(slots=True, kw_only=True)
class Flags:
    """A command's flags.

    Args:
        tree: settings by name, `-` read as `_`.
        positional: words that belong to no flag.
    """

    tree: Tree = field(default_factory=dict)
    positional: list[str] = field(default_factory=list)

    def text(self, *names: str) -> str | None:
        """The value of the first of these flags, as text, or None."""
        for name in names:
            node = self.tree.get(name)
            if isinstance(node, Cell) and node.value is not None:
                return str(node.value)
        return None

    def file(self, name: str, folder: Path) -> Path | None:
        """The file that a flag names, or None where it is not there."""
        named = self.text(name)
        return None if named is None else existing(named, folder)

    def positional_files(self, folder: Path) -> list[Path]:
        """YAML files among the words that belong to no flag."""
        found = (existing(word, folder) for word in self.positional if word.endswith((".yaml", ".yml")))
        return [path for path in found if path is not None]


def existing(named: str, folder: Path) -> Path | None:
    """A file by the name a command gives it: from where it is started, or beside the script."""
    path = Path(named).expanduser()
    for candidate in (folder / path, path, folder / path.name):
        if candidate.is_file():
            return candidate
    return None


def parse_flags(words: Command, path: Path) -> Flags:
    """The flags of a command."""
    flags = Flags()
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if not word.text.startswith("--") or word.text == "--":
            flags.positional.append(word.text)
            continue
        name, equals, value = word.text[2:].partition("=")
        values = [value] if equals else []
        while not equals and index < len(words) and _is_value(words[index]):
            values.append(words[index].text)
            index += 1
        key = name.replace("-", "_")
        flags.tree.pop(key, None)
        _set(flags.tree, key, values, Place(file=path, line=word.line))
    return flags


def _is_value(word: Word) -> bool:
    return not word.text.startswith("-") or _FLOAT.fullmatch(word.text) is not None


def _set(tree: Tree, key: str, values: list[str], place: Place) -> None:
    if not values and key not in KNOWN and key.startswith("no_"):
        tree[key.removeprefix("no_")] = Cell(value=False, place=place)
        return
    if len(values) == 1:
        value = scalar(values[0])
        if isinstance(value, dict) and value:
            tree[key] = from_values(value, place)
            return
    else:
        value = [scalar(one) for one in values] if values else True
    tree[key] = Cell(value=value, place=place)


def scalar(text: str) -> object:
    """A flag's text as the value it stands for."""
    lowered = text.strip().lower()
    if lowered in ("true", "false"):
        return lowered == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if text.startswith("{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text
