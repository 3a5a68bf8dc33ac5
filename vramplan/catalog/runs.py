"""profiles/runs/*.toml: run settings, flat, with the keys of `estimate --jsonl`.

Files of other tools are found here too, and read by `vramplan.runfiles.reader`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vramplan.catalog.dirs import ProfileDirs, ProfileFile
from vramplan.catalog.toml_file import Table, read_toml
from vramplan.core.quick import dataclass
from vramplan.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A sum that a document gives for this run.

    Args:
        what: what it is a sum of.
        claimed_bytes: the document's figure.
        truth: what of the report it is to be held against: `weights_bf16`, `weights_int8`, `activations` or `peak`.
        remark: where the difference comes from.
    """

    what: str
    claimed_bytes: int
    truth: str
    remark: str


TRUTHS = ("weights_bf16", "weights_int8", "activations", "peak")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProfile:
    """Settings of a run, not yet checked: the flags' own code does that.

    Args:
        file: where they were read.
        description: one sentence on what the run is.
        source: where the settings come from.
        notes: what to know about them.
        settings: the keys of `estimate --jsonl`, values typed.
        claims: what documents say the run takes.
        foreign: whether it is a file of another tool's, whose settings are not read here.
    """

    file: ProfileFile
    description: str
    source: str
    notes: tuple[str, ...]
    settings: Mapping[str, object]
    claims: tuple[Claim, ...] = ()
    foreign: bool = False


FOREIGN_SUFFIXES = (".yaml", ".yml", ".json", ".sh", ".bash", ".slurm", ".txt")


def load_run(name: str, dirs: ProfileDirs, *, folder: Path | None = None) -> RunProfile:
    """A run by profile name, by a path to a `.toml`, or by a path to another tool's file or folder.

    Args:
        name: as it was written.
        dirs: where profiles lie.
        folder: where a relative path starts; None takes the working folder.

    Raises:
        UsageError: there is no such profile or file, or it is not a flat table with `description` and `source`.
    """
    start = folder or Path()
    if _is_foreign(name, start):
        return _foreign(start / Path(name).expanduser())
    if name.endswith(".toml"):
        path = start / Path(name).expanduser()
        if not path.is_file():
            raise UsageError(f"there is no file {path}")
        file = ProfileFile(kind="runs", name=path.stem, path=path)
    else:
        file = dirs.find("runs", name)
    top = read_toml(file.path)
    description, source, notes = top.string("description"), top.string("source"), top.strings("notes")
    settings = {key: value for key, value in top.values.items() if key not in _ABOUT}
    for key, value in settings.items():
        # `stack = {transformers = "4.51.1"}` is the one nested key that --jsonl has.
        if isinstance(value, dict) and key != "stack":
            raise top.error(f"{key} is a table, and run settings are flat", key=key)
    claims = tuple(_claim(table) for table in top.tables("claims"))
    return RunProfile(file=file, description=description, source=source, notes=notes, settings=settings, claims=claims)


def _is_foreign(name: str, folder: Path) -> bool:
    """Whether a name is a path to another tool's file: by its suffix, or a folder with a separator in its name."""
    if name.endswith(FOREIGN_SUFFIXES):
        return True
    try:
        return ("/" in name or name in (".", "..")) and (folder / Path(name).expanduser()).is_dir()
    except (OSError, ValueError, RuntimeError):  # too long for a file, a null byte, a home that is not known
        return False


def _foreign(path: Path) -> RunProfile:
    if not path.exists():
        raise UsageError(f"there is no file {path}")
    file = ProfileFile(kind="runs", name=path.name or str(path), path=path)
    return RunProfile(
        file=file, description="another tool's run", source=str(path), notes=(), settings={}, foreign=True
    )


_ABOUT = frozenset({"description", "source", "notes", "claims"})


def _claim(table: Table) -> Claim:
    truth = table.string("truth")
    if truth not in TRUTHS:
        raise table.error(f"truth is {truth!r}, not one of {', '.join(TRUTHS)}", key="truth")
    claim = Claim(
        what=table.string("what"),
        claimed_bytes=table.size_bytes("claimed"),
        truth=truth,
        remark=table.string("remark"),
    )
    table.done()
    return claim
