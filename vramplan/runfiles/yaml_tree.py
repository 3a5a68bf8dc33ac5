"""YAML text as a tree, with the line of every leaf from PyYAML's own marks."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vramplan.errors import UsageError
from vramplan.runfiles.runfile import Place
from vramplan.runfiles.tree import Cell, Node, Tree

if TYPE_CHECKING:
    import yaml

MOST_DEPTH = 64
MOST_LEAVES = 100_000
"""Anchors let a few lines stand for billions of leaves."""

# YAML 1.1 reads `1e-6` as a text; OmegaConf, and argparse behind TRL, read a number (omegaconf 2.3 _utils.py).
_FLOAT = re.compile(
    r"""^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)
    |\.[0-9_]+(?:[eE][-+]?[0-9]+)?
    |[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)


def yaml_tree(text: str, path: Path) -> Tree:
    """The mapping that a YAML text holds.

    Raises:
        UsageError: it is not YAML, or holds something else than one mapping with texts as keys.
    """
    import yaml

    try:
        loader = _loader()(text)
        node = loader.get_single_node()
        if node is None:
            raise UsageError(f"{path} says nothing: it holds comments only", hint="name the run's settings file")
        if not isinstance(node, yaml.MappingNode):
            raise UsageError(f"{path} is not a mapping of settings", hint="write one `key: value` a line")
        return _Builder(loader, path).tree(node, 0)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f":{mark.line + 1}"
        raise UsageError(f"{path}{line}: not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise UsageError(f"{path} is nested too deep for settings") from error


def yaml_scalar(text: str) -> object:
    """A value as the command line of Hydra has it; a text that is no YAML stays a text."""
    import yaml

    try:
        return yaml.load(text, _loader())
    except (yaml.YAMLError, RecursionError, ValueError):
        return text


@functools.cache
def _loader() -> type[yaml.SafeLoader]:
    import yaml

    class Loader(yaml.SafeLoader):
        """SafeLoader with OmegaConf's floats and no dates."""

    keep = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":float", ":timestamp"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.yaml_implicit_resolvers = keep
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
    return Loader


class _Builder:
    """Nodes of one document turned into a tree."""

    def __init__(self, loader: yaml.SafeLoader, path: Path) -> None:
        self._loader, self._path, self._leaves = loader, path, 0

    def tree(self, node: yaml.MappingNode, depth: int) -> Tree:
        if depth > MOST_DEPTH:
            raise UsageError(f"{self._path} is nested too deep for settings")
        self._loader.flatten_mapping(node)  # merge keys: `<<: *base`
        tree: Tree = {}
        for key_node, value_node in node.value:
            key = self._value(key_node)
            if isinstance(key, (list, dict)) or key is None:
                line = key_node.start_mark.line + 1
                raise UsageError(f"{self._path}:{line}: a key must be a text, not {key!r}")
            tree[str(key)] = self._node(value_node, key_node.start_mark.line + 1, depth + 1)
        return tree

    def _node(self, node: Any, line: int, depth: int) -> Node:
        import yaml

        if isinstance(node, yaml.MappingNode) and node.value:
            return self.tree(node, depth)
        self._leaves += 1
        if self._leaves > MOST_LEAVES:
            raise UsageError(f"{self._path} has more than {MOST_LEAVES:,} settings")
        return Cell(value=self._value(node), place=Place(file=self._path, line=line))

    def _value(self, node: Any) -> object:
        try:
            return self._loader.construct_object(node, deep=True)  # type: ignore[no-untyped-call,unused-ignore]
        except (ValueError, OverflowError) as error:
            line = node.start_mark.line + 1
            raise UsageError(f"{self._path}:{line}: not YAML: {error}") from error


def yaml_text(values: dict[str, object]) -> str:
    """Settings as YAML, in their order; texts that this reader or PyYAML's would take for numbers are quoted."""
    import yaml

    text: str = yaml.dump(values, Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=1000)
    return text if values else ""


@functools.cache
def _dumper() -> type[yaml.SafeDumper]:
    import yaml

    class Dumper(yaml.SafeDumper):
        """SafeDumper that quotes what OmegaConf reads as a number, and indents lists."""

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
            super().increase_indent(flow, False)

        def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
            return True

    Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
    return Dumper
