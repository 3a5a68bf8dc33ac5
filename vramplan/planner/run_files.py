"""The run that a name stands for: a profile's, a file's of our own, or another tool's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vramplan.catalog.dirs import ProfileDirs
from vramplan.catalog.runs import RunProfile, load_run
from vramplan.core.quick import dataclass
from vramplan.errors import UsageError
from vramplan.runfiles.flat import FlatRun, parse_flat

_TOOLS = {
    "rlt": "a run of RLT's",
    "trl": "a run of TRL's",
    "training-arguments": "TrainingArguments",
    "accelerate": "an accelerate configuration",
    "deepspeed": "a DeepSpeed configuration",
    "vramplan": "a run",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedRun:
    """What `--run` names.

    Args:
        profile: where it was found, what it is, and what to know of it.
        flat: its settings.
    """

    profile: RunProfile
    flat: FlatRun


def read_named_run(name: str, dirs: ProfileDirs, *, folder: Path | None = None) -> NamedRun:
    """A run by profile name, or by a path to a file or folder of any tool that is known.

    Args:
        name: as it was written.
        dirs: where profiles lie.
        folder: where a relative path starts; None takes the working folder.

    Raises:
        UsageError: there is no such run, it cannot be read, or it names another one.
    """
    profile = load_run(name, dirs, folder=folder)
    if profile.foreign:
        return _foreign(profile)
    flat = parse_flat(profile.settings, str(profile.file.path))
    if flat.run is not None:
        raise UsageError(f"{profile.file.path}: a run profile cannot name another one", hint="copy its settings here")
    return NamedRun(profile=profile, flat=flat)


def _foreign(profile: RunProfile) -> NamedRun:
    """Another tool's file, read: the profile with what it is and what to know of it, and its settings."""
    from vramplan.runfiles.reader import read_run_file
    from vramplan.runfiles.unsaid import unsaid

    file = read_run_file(profile.file.path)
    notes = [
        f"{key}: auto is the checkpoint's own dtype, which bf16 stands for here (--dtype says otherwise)"
        for key, written in file.written.items()
        if written.value == "auto" and key.rpartition(".")[2] in ("dtype", "torch_dtype")
    ]
    left = list(dict.fromkeys(one.key.rpartition(".")[2] for one in unsaid(file)))
    if left:
        notes.append(f"the file also sets {', '.join(left)}, which this answer does not count")
    described = replace(profile, description=_TOOLS[file.tool.value], notes=tuple(notes))
    return NamedRun(profile=described, flat=file.flat)
