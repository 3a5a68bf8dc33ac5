"""From what the user gave to a report: the run profile underneath, the defaults, and the planner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vramplan.catalog import ProfileDirs, RunProfile, load_run, profile_dirs
from vramplan.core.report import MemoryReport
from vramplan.errors import UsageError
from vramplan.runfiles.flat import FlatRun, parse_flat

if TYPE_CHECKING:
    from vramplan.planner.simulated import Simulated

DEFAULT_RUN = "rlt-85gb-conservative"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A run with its profile's settings underneath.

    Args:
        flat: the settings.
        title: what the profile is, or None without one.
        notes: what to know about the profile.
        shadowing: the sentence owed when it hides a shipped one, or None.
    """

    flat: FlatRun
    title: str | None = None
    notes: tuple[str, ...] = ()
    shadowing: str | None = None


def find_profiles(folders: Sequence[str] | None) -> ProfileDirs:
    """The profile folders, `--profile-dir` last."""
    return profile_dirs([Path(folder) for folder in folders or ()])


def with_profile(flat: FlatRun, dirs: ProfileDirs) -> Asked:
    """Put the run profile under the settings: the one named, or the shipped default where no model is.

    Raises:
        UsageError: nothing was given, or a method without its model, or the profile is wrong.
    """
    name = flat.run or _default_run(flat)
    if name is None:
        return Asked(flat=flat)
    profile = load_run(name, dirs)
    if profile.foreign:
        profile, under = _foreign(profile)
    else:
        under = parse_flat(profile.settings, str(profile.file.path))
    if under.run is not None:
        raise UsageError(f"{profile.file.path}: a run profile cannot name another one", hint="copy its settings here")
    return Asked(
        flat=under.merged(flat).merged(FlatRun(run=name)),
        title=_title(profile, under, flat),
        notes=profile.notes,
        shadowing=profile.file.note,
    )


_TOOLS = {
    "rlt": "a run of RLT's",
    "trl": "a run of TRL's",
    "training-arguments": "TrainingArguments",
    "accelerate": "an accelerate configuration",
    "deepspeed": "a DeepSpeed configuration",
    "vramplan": "a run",
}


def _foreign(profile: RunProfile) -> tuple[RunProfile, FlatRun]:
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
    return replace(profile, description=_TOOLS[file.tool.value], notes=tuple(notes)), file.flat


_OF_THE_CARD = frozenset({"run", "gpu", "gpu_mem"})


def _title(profile: RunProfile, under: FlatRun, flat: FlatRun) -> str:
    """What the profile is, or, where flags change it, which of its settings are not its own any more."""
    settings = under.given()
    changed = [key for key, value in flat.given().items() if key not in _OF_THE_CARD and settings.get(key) != value]
    if not changed:
        return f"{profile.file.name}: {profile.description}"
    return f"{profile.file.name} with another {', '.join(changed)}"


def answer_run(asked: Asked, dirs: ProfileDirs, *, run_id: str | None = None) -> MemoryReport:
    """The estimate's report."""
    from vramplan.planner.answer import answer

    return answer(asked.flat, profile_dirs=dirs, run_id=run_id)


def simulate_asked(
    asked: Asked,
    dirs: ProfileDirs,
    *,
    run_id: str | None = None,
    capacity_bytes: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Simulated:
    """The simulation's report, with the events it comes from."""
    from vramplan.planner.simulated import simulate_run

    return simulate_run(asked.flat, profile_dirs=dirs, run_id=run_id, capacity_bytes=capacity_bytes, progress=progress)


def page_name(asked: Asked) -> str:
    """What a page calls the run: its profile, else its models."""
    flat = asked.flat
    return flat.run or " + ".join(filter(None, (flat.model, flat.teacher, flat.student))) or "run"


def _default_run(flat: FlatRun) -> str | None:
    if flat.model or flat.teacher or flat.student:
        return None
    if not flat.given():
        raise UsageError("no run is described", hint="give a MODEL, --run PROFILE, or a budget: --gpu-mem 85")
    if flat.method not in (None, "rlt"):
        raise UsageError(f"method {flat.method} needs a model", hint=f"vramplan estimate MODEL --method {flat.method}")
    return DEFAULT_RUN
