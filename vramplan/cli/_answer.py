"""From what the user gave to a report: the run profile underneath, the defaults, and the planner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vramplan.catalog import ProfileDirs, RunProfile, profile_dirs
from vramplan.core.quick import dataclass
from vramplan.core.report import MemoryReport
from vramplan.errors import UsageError
from vramplan.planner.run_files import read_named_run
from vramplan.runfiles.flat import FlatRun

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
    found = read_named_run(name, dirs)
    profile, under = found.profile, found.flat
    return Asked(
        flat=under.merged(flat).merged(FlatRun(run=name)),
        title=_title(profile, under, flat),
        notes=profile.notes,
        shadowing=profile.file.note,
    )


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
