"""profiles/stacks/*.toml: what each library version changes, as data."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache

from vramplan.catalog.dirs import ProfileDirs, suggestion
from vramplan.catalog.toml_file import Table, read_toml
from vramplan.core.quick import dataclass
from vramplan.core.stack import Stack
from vramplan.errors import UsageError

Version = tuple[int, ...]
DISTRIBUTIONS = {"bnb": "bitsandbytes"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A trait's value from one version on."""

    since: Version
    value: bool | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One library: the newest version that was read, and its traits, oldest value first."""

    name: str
    newest: str
    traits: Mapping[str, tuple[Change, ...]]


def parse_version(text: str) -> Version:
    """The release numbers of `2.10.0+cu128` or `1.10.0.dev0`, as a tuple.

    Raises:
        UsageError: the text does not begin with a number.
    """
    match = re.match(r"\d+(?:\.\d+)*", text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not a version", hint="write --stack transformers=4.51.1,trl=0.14.0")
    return tuple(int(part) for part in match[0].split("."))


def load_stack(named: Mapping[str, str], dirs: ProfileDirs) -> Stack:
    """The behaviours of the named versions, else of what is installed, else of the newest known.

    Args:
        named: package name to version, as given by the user; `bnb` is bitsandbytes.
        dirs: where profiles lie.

    Raises:
        UsageError: a package has no profile, or a version cannot be read.
    """
    return _stack(tuple(named.items()), dirs)


@lru_cache(maxsize=64)
def _stack(named: tuple[tuple[str, str], ...], dirs: ProfileDirs) -> Stack:
    """Kept, because the runs of a sweep name the same versions: their stack is then one object."""
    packages = _packages(dirs)
    given = {DISTRIBUTIONS.get(name, name): version for name, version in named}
    for name in given:
        if name not in packages:
            raise UsageError(f"no versions are known of {name!r}", hint=suggestion(name, sorted(packages), "packages"))
    versions: dict[str, str] = {}
    traits: dict[str, bool | float | str] = {}
    for name, package in packages.items():
        versions[name] = given.get(name) or _installed_versions().get(name) or package.newest
        version = parse_version(versions[name])
        for trait, changes in package.traits.items():
            traits[trait] = next(change.value for change in reversed(changes) if change.since <= version)
    unread = frozenset(
        name
        for name, package in packages.items()
        if package.traits and parse_version(versions[name]) > parse_version(package.newest)
    )
    return Stack(versions=versions, named=frozenset(given), unread=unread, **traits)  # type: ignore[arg-type]


@lru_cache(maxsize=4)
def _packages(dirs: ProfileDirs) -> dict[str, Package]:
    packages = {name: _read(read_toml(dirs.find("stacks", name).path)) for name in dirs.names("stacks")}
    known = {field.name for field in fields(Stack)} - {"versions", "named", "unread"}
    found = {trait for package in packages.values() for trait in package.traits}
    if known != found:
        raise UsageError(f"the stack profiles do not describe {', '.join(sorted(known ^ found))}")
    return packages


def _read(top: Table) -> Package:
    name, newest = top.string("package"), top.string("newest")
    top.string("source")
    traits: dict[str, tuple[Change, ...]] = {}
    table = top.optional_table("traits")
    for trait in () if table is None else table.values:
        assert table is not None
        one = table.table(trait)
        one.string("source")
        changes = [Change(since=(0,), value=one.scalar("value"))]
        for change in one.tables("changes"):
            change.string("source")
            changes.append(Change(since=parse_version(change.string("since")), value=change.scalar("value")))
            change.done()
        one.done()
        traits[trait] = tuple(sorted(changes, key=lambda change: change.since))
    top.done()
    return Package(name=name, newest=newest, traits=traits)


_DIST_INFO = re.compile(r"^(?P<name>.+?)-(?P<version>\d[^-]*)\.dist-info$")


@lru_cache(maxsize=1)
def _installed_versions() -> dict[str, str]:
    """Distribution name to version, from the names of metadata folders: importlib.metadata takes ten times as long."""
    versions: dict[str, str] = {}
    for folder in filter(os.path.isdir, sys.path):
        for entry in os.listdir(folder):  # noqa: PTH208  (names are enough, and start-up counts)
            match = _DIST_INFO.match(entry)
            if match is not None:
                versions.setdefault(match["name"].lower().replace("_", "-"), match["version"])
    return versions
