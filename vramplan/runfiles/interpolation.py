"""`${key}`, `${a.b}`, `${.sibling}` and `${oc.env:NAME,default}`: the part of OmegaConf's interpolations that is plain.

Source: omegaconf 2.3, grammar and resolvers/oc. Other resolvers (`${now:…}`) and keys that are not there keep their
text, which `is_open` recognises.
"""

from __future__ import annotations

import os
import re

from vramplan.errors import UsageError
from vramplan.runfiles.tree import Cell, Tree, find, put
from vramplan.runfiles.yaml_tree import yaml_scalar

MISSING = "???"
_INNERMOST = re.compile(r"\$\{([^${}]*)\}")
_PATH = re.compile(r"\.*[^\s:,.]+(\.[^\s:,.]+)*")
_KEPT = "\0"


def is_open(value: object) -> bool:
    """Whether a value still refers to something that is not known here."""
    return isinstance(value, str) and "${" in value


def resolve(tree: Tree) -> None:
    """Replace every interpolation and every `???`, in place.

    Raises:
        UsageError: a setting refers to itself.
    """
    resolver = _Resolver(tree)
    for path, cell in list(_cells(tree, "")):
        put(tree, path, Cell(value=resolver.value_of(path, cell), place=cell.place))


def _cells(tree: Tree, prefix: str) -> list[tuple[str, Cell]]:
    found: list[tuple[str, Cell]] = []
    for key, node in tree.items():
        path = f"{prefix}{key}"
        if isinstance(node, dict):
            found += _cells(node, f"{path}.")
        elif "." not in key:  # a key with a dot in it has no dotted path
            found.append((path, node))
    return found


class _Resolver:
    """Values of one tree, each worked out once."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._done: dict[str, object] = {}
        self._open: list[str] = []

    def value_of(self, path: str, cell: Cell) -> object:
        if path in self._done:
            return self._done[path]
        if path in self._open:
            where = f"{cell.place.file}:{cell.place.line}" if cell.place.line else str(cell.place.file)
            raise UsageError(f"{where}: {path} refers to itself", hint=" -> ".join([*self._open, path]))
        self._open.append(path)
        try:
            self._done[path] = self._resolve(cell.value, path)
        except RecursionError as error:
            raise UsageError(f"{cell.place.file}: {path} refers to too many other settings") from error
        finally:
            self._open.pop()
        return self._done[path]

    def _resolve(self, value: object, path: str) -> object:
        if isinstance(value, list):
            return [self._resolve(item, path) for item in value]
        if value == MISSING:
            return None
        if not is_open(value):
            return value
        text = str(value)
        while (match := _INNERMOST.search(text)) is not None:
            found = self._lookup(match[1].strip(), path)
            if match[0] == text:
                return f"${{{match[1]}}}" if found is _UNKNOWN else found
            inner = f"${_KEPT}{match[1]}{_KEPT}" if found is _UNKNOWN else str(found)
            text = text[: match.start()] + inner + text[match.end() :]
        return re.sub(f"\\${_KEPT}([^{_KEPT}]*){_KEPT}", r"${\1}", text)

    def _lookup(self, name: str, path: str) -> object:
        resolver, colon, argument = name.partition(":")
        if colon:
            return _environment(argument) if resolver == "oc.env" else _UNKNOWN
        if not _PATH.fullmatch(name):
            return _UNKNOWN
        dots = len(name) - len(name.lstrip("."))
        if dots:
            parents = path.split(".")[:-dots]
            name = ".".join([*parents, name.lstrip(".")])
        node = find(self._tree, name)
        return self.value_of(name, node) if isinstance(node, Cell) else _UNKNOWN


class _Unknown:
    """What a name stands for that is not known here."""


_UNKNOWN = _Unknown()


def _environment(argument: str) -> object:
    name, comma, default = argument.partition(",")
    value = os.environ.get(name.strip())
    if value is not None:
        return value
    return yaml_scalar(default.strip()) if comma else None
