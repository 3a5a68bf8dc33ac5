"""A configuration as a tree whose leaves know where they were written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Union

from vramplan.runfiles.runfile import Place, Written


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A leaf: a scalar, a list, or an empty mapping, with its place."""

    value: object
    place: Place


Node = Union["Tree", Cell]
Tree = dict[str, Node]


def merge(base: Tree, over: Tree) -> None:
    """Put `over` on top of `base`, in place: mappings merge key by key, everything else replaces (as OmegaConf)."""
    for key, node in over.items():
        below = base.get(key)
        if isinstance(node, dict) and isinstance(below, dict):
            merge(below, node)
        else:
            base[key] = copy(node)


def copy(node: Node) -> Node:
    """A tree of its own, so that a later merge does not change the first one."""
    return {key: copy(child) for key, child in node.items()} if isinstance(node, dict) else node


def find(tree: Tree, path: str) -> Node | None:
    """The node at a dotted path, or None."""
    node: Node = tree
    for part in path.split("."):
        if not isinstance(node, dict) or part not in node:
            return None
        node = node[part]
    return node


def put(tree: Tree, path: str, node: Node) -> None:
    """Set the node at a dotted path; whatever stands in the way of the path is replaced by a mapping."""
    *parents, last = path.split(".")
    for part in parents:
        below = tree.get(part)
        if not isinstance(below, dict):
            below = tree[part] = {}
        tree = below
    tree[last] = node


def nested(path: str, tree: Tree) -> Tree:
    """The tree moved under a dotted path; the empty path moves nothing."""
    if not path:
        return tree
    top: Tree = {}
    put(top, path, tree)
    return top


def flatten(tree: Tree, prefix: str = "") -> dict[str, Written]:
    """Every leaf by its dotted path, in order."""
    flat: dict[str, Written] = {}
    for key, node in tree.items():
        path = f"{prefix}{key}"
        if isinstance(node, dict):
            flat |= flatten(node, f"{path}.")
        else:
            flat[path] = Written(key=path, value=node.value, place=node.place)
    return flat


def from_values(values: Mapping[str, object], place: Place) -> Tree:
    """A tree of plain values that all stand in one place."""
    tree: Tree = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            tree[str(key)] = from_values(value, place)
        else:
            tree[str(key)] = Cell(value=value, place=place)
    return tree
