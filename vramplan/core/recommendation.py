"""What `recommend` answers: three runs, the frontier, the wall of each axis, and what would have to change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vramplan.core.report import MemoryReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommended:
    """One recommended run.

    Args:
        name: `conservative`, `balanced` or `aggressive`.
        run: its settings, complete, as keys of `estimate --jsonl`.
        report: the estimate's report of it.
        margin_bytes: what its peak leaves of the budget.
        limited_by: the phase that decides, and what there grows with the sizes.
        command: what asks the estimate about it again.
        file_text: the file that trains it, None where nothing trains.
    """

    name: str
    run: Mapping[str, object]
    report: MemoryReport
    margin_bytes: int
    limited_by: str
    command: str
    file_text: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierPoint:
    """A run that no other of its precision beats in context, rows of a forward and rows of a rollout at once.

    Args:
        precision: of the trained model.
        run: its settings, complete, as keys of `estimate --jsonl`.
        prompt, completion: tokens of a row.
        rows: of a forward.
        rollout_rows: of a rollout, 0 where nothing is generated in training.
        device_used_bytes: at its peak.
        high_bytes: the top of its band.
    """

    precision: str
    run: Mapping[str, object]
    prompt: int
    completion: int
    rows: int
    rollout_rows: int
    device_used_bytes: int
    high_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wall:
    """How far one axis alone could go.

    Args:
        axis: the flat key (`context` is prompt and completion each).
        now: its value in the run.
        reach: the largest value that fits with everything else as it is.
        next_value: the smallest that does not, or None where the model or the search ends first.
        phase: which phase no longer fits at `next_value`, or None.
        over_bytes: by how much its band's top is beyond the budget there, or None.
    """

    axis: str
    now: int
    reach: int
    next_value: int | None
    phase: str | None
    over_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change to a run that does not fit.

    Args:
        what: in words.
        settings: the flat keys that it sets.
        freed_bytes: of the device at the peak.
        fits: whether the run then fits.
    """

    what: str
    settings: Mapping[str, object]
    freed_bytes: int
    fits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """Why a larger (or the smallest) setting does not fit, and what would change that.

    Args:
        what: the setting, in words.
        phase: which phase is too large.
        component: its largest part.
        over_bytes: the top of the band beyond the budget.
        changes: cheapest first.
    """

    what: str
    phase: str
    component: str
    over_bytes: int
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The answer.

    Args:
        budget_bytes: what the runs must fit.
        gpu: the card's name.
        method: what is done.
        roles: names of the models.
        num_settings: candidates, those that the trainer refuses among them.
        recommended: up to three runs.
        frontier: points of every precision.
        walls: of the balanced run, or the only one.
        walls_of: its name, or None without one.
        obstacles: of the largest recommended run, or of the closest where none fits.
        closest: the run that needs least where none fits, else None.
        missing_bytes: by how much that misses the budget, or None.
        held: settings that were not searched, by flat key.
        notes: sentences to know.
    """

    budget_bytes: int
    gpu: str
    method: str
    roles: tuple[str, ...]
    num_settings: int
    recommended: tuple[Recommended, ...]
    frontier: tuple[FrontierPoint, ...]
    walls: tuple[Wall, ...]
    walls_of: str | None
    obstacles: tuple[Obstacle, ...]
    closest: Recommended | None
    missing_bytes: int | None
    held: Mapping[str, object]
    notes: tuple[str, ...]
