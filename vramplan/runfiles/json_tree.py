"""JSON and TOML text as a tree."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from vramplan.errors import UsageError
from vramplan.runfiles.runfile import Place
from vramplan.runfiles.tree import Cell, Tree, find, flatten, from_values
from vramplan.runfiles.yaml_tree import yaml_tree


def json_tree(text: str, path: Path) -> Tree:
    """The object that a JSON text holds. Lines come from reading it as YAML, of which it is nearly a part.

    Raises:
        UsageError: it is not JSON, or no object.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
    except (RecursionError, ValueError) as error:  # digits without end are a ValueError
        raise UsageError(f"{path} is not JSON that settings are written in") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} is not an object of settings", hint='write {"key": value, …}')
    tree = from_values(values, Place(file=path, line=None))
    try:
        marked = yaml_tree(text, path)
    except UsageError:  # JSON may hold tabs, YAML may not: values without lines
        return tree
    _mark(tree, marked)
    return tree


def toml_tree(text: str, path: Path) -> Tree:
    """The table that a TOML text holds; lines of top-level keys only.

    Raises:
        UsageError: it is not TOML.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        values: dict[str, Any] = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        # Python names the place in the message only: "… (at line 3, column 5)".
        reason, _, where = str(error).partition(" (at ")
        line = re.match(r"line (\d+)", where)
        number = int(line[1]) if line else text.count("\n") + 1
        raise UsageError(f"{path}:{number}: not TOML: {reason[:1].lower()}{reason[1:]}") from error
    tree: Tree = {}
    for key, value in values.items():
        place = Place(file=path, line=_toml_line(text, key))
        tree[key] = from_values(value, place) if isinstance(value, dict) and value else Cell(value=value, place=place)
    return tree


def _mark(tree: Tree, marked: Tree) -> None:
    for key, written in flatten(marked).items():
        node = find(tree, key)
        if isinstance(node, Cell):
            _set(tree, key.split("."), Cell(value=node.value, place=written.place))


def _set(tree: Tree, parts: list[str], cell: Cell) -> None:
    for part in parts[:-1]:
        child = tree[part]
        if not isinstance(child, dict):
            return
        tree = child
    tree[parts[-1]] = cell


def _toml_line(text: str, key: str) -> int | None:
    for number, line in enumerate(text.splitlines(), start=1):
        if re.match(rf"\s*(\[\[?\s*)?[\"']?{re.escape(key)}[\"']?\s*[.=\]]", line):
            return number
    return None
