"""profiles/matrices/*.toml: many runs to measure, written as products of lists.

Each table of `[[runs]]` is one product: every list in it stands for its items, one after the other, and every key that
begins with `vary` for tables of keys that go together. `[defaults]` holds for all of them. Keys are those of
`estimate --jsonl`, and `weights`, `steps`, `timeout` and `allocator_conf` of `vramplan measure`. `run` takes what
`--run` takes, a relative path counting from the matrix's own folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from vramplan.catalog.dirs import ProfileDirs, ProfileFile
from vramplan.catalog.toml_file import Table, read_toml
from vramplan.errors import UsageError

MANNERS = ("weights", "steps", "timeout", "allocator_conf")
"""Keys of measuring, not of the run."""
_LISTS = frozenset({"lora_target_modules", "offload"})
"""Keys whose value is itself a list: for them a list of lists stands for its items."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixRun:
    """One run of a matrix.

    Args:
        settings: the keys of `estimate --jsonl`, not yet checked.
        manner: those of MANNERS that are given, not yet checked.
        where: the file and table, for messages.
    """

    settings: Mapping[str, object]
    manner: Mapping[str, object]
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Many runs.

    Args:
        file: where they were read.
        description: one sentence on what they are.
        runs: in the order in which they are measured, each once.
    """

    file: ProfileFile
    description: str
    runs: tuple[MatrixRun, ...]


def load_matrix(name: str, dirs: ProfileDirs) -> Matrix:
    """A matrix by profile name, or by a path to a `.toml`.

    Raises:
        UsageError: there is no such profile or file, or it is not a matrix.
    """
    if name.endswith(".toml"):
        path = Path(name).expanduser()
        if not path.is_file():
            raise UsageError(f"there is no file {path}")
        file = ProfileFile(kind="matrices", name=path.stem, path=path)
    else:
        file = dirs.find("matrices", name)
    top = read_toml(file.path)
    description = top.string("description")
    top.string("source")
    defaults = top.optional_table("defaults")
    tables = top.tables("runs")
    top.done()
    if not tables:
        raise top.error("a matrix needs at least one table [[runs]]")
    base = {} if defaults is None else dict(defaults.values)
    runs: list[MatrixRun] = []
    for table in tables:
        for run in _product(table, base):
            if run not in runs:
                runs.append(run)
    return Matrix(file=file, description=description, runs=tuple(runs))


def _product(table: Table, defaults: Mapping[str, Any]) -> Iterator[MatrixRun]:
    axes: list[list[Mapping[str, Any]]] = [[defaults]]
    for key, value in table.values.items():
        axes.append(_axis(table, key, value))
    for parts in product(*axes):
        merged = {name: value for part in parts for name, value in part.items()}
        yield MatrixRun(
            settings={name: value for name, value in merged.items() if name not in MANNERS},
            manner={name: value for name, value in merged.items() if name in MANNERS},
            where=f"{table.path}, [[runs]]",
        )


def _axis(table: Table, key: str, value: Any) -> list[Mapping[str, Any]]:
    if key.startswith("vary"):
        if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
            raise table.error(f"{key} is not a list of tables", key=key, hint='write [{quantization = "int8"}, {}]')
        return value
    is_product = isinstance(value, list) and (key not in _LISTS or all(isinstance(item, list) for item in value))
    if not is_product:
        return [{key: value}]
    if not value:
        raise table.error(f"{key} is an empty list", key=key)
    return [{key: item} for item in value]
