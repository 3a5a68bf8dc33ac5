"""How far predictions may be off before `vramplan accuracy` exits 3."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from vramplan.errors import UsageError
from vramplan.records.scoring import Score, statistics_of
from vramplan.records.truth import MeasuredKind

FAMILIES = {
    "allocated": (MeasuredKind.ALLOCATED,),
    "reserved": (MeasuredKind.RESERVED,),
    "device": (MeasuredKind.DEVICE_USED, MeasuredKind.DEVICE_USED_ABOVE_BASELINE),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Errors that one kind of number may have, as ratios."""

    median: float
    p95: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerances:
    """The promise; without a file, the one the README makes.

    Args:
        allocated, reserved, device: errors by kind; `device` counts both device kinds.
        min_inside: share of rows whose band holds the measurement, at least.
        max_half_width: the median half-width of the band against the prediction, at most.
        max_unanswered: rows that got no prediction, at most.
    """

    allocated: Limit = Limit(median=0.015, p95=0.05)
    reserved: Limit = Limit(median=0.04, p95=0.12)
    device: Limit = Limit(median=0.04, p95=0.12)
    min_inside: float = 0.95
    max_half_width: float = 0.08
    max_unanswered: int = 0


def tolerances_from(values: Mapping[str, Any], where: str) -> Tolerances:
    """Tolerances from the tables of a TOML file: `[allocated] median, p95`, …, `[band]`, `[answers]`.

    Raises:
        UsageError: a table or number is missing, unknown or out of range.
    """
    known: dict[str, tuple[str, ...]] = dict.fromkeys(FAMILIES, ("median", "p95"))
    known |= {"band": ("min_inside", "max_half_width"), "answers": ("max_unanswered",)}
    if set(values) != set(known):
        raise UsageError(f"{where} must have the tables {', '.join(known)}, not {', '.join(values) or 'none'}")
    for table, keys in known.items():
        given = values[table]
        if not isinstance(given, dict) or set(given) != set(keys):
            raise UsageError(f"{where}: [{table}] must have {' and '.join(keys)}, and nothing else")
        for key, value in given.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
                raise UsageError(f"{where}: {table}.{key} must be a number of at least 0, not {value!r}")
    return Tolerances(
        allocated=Limit(**values["allocated"]),
        reserved=Limit(**values["reserved"]),
        device=Limit(**values["device"]),
        **values["band"],
        **values["answers"],
    )


def exceeded(scores: Sequence[Score], num_unanswered: int, tolerances: Tolerances) -> Iterator[str]:
    """Sentences on what is beyond tolerance; kinds that no row measured are left out."""
    for name, kinds in FAMILIES.items():
        members = [item for item in scores if item.row.kind in kinds]
        if not members:
            continue
        found, limit = statistics_of(members), getattr(tolerances, name)
        for statistic in fields(Limit):
            error = getattr(found, f"{statistic.name}_abs_error_ratio")
            most = getattr(limit, statistic.name)
            if error > most:
                yield f"{name}: {statistic.name} error {error:.2%} is above {most:.2%}"
    if scores:
        found = statistics_of(scores)
        if found.inside_ratio < tolerances.min_inside:
            yield f"band: it holds {found.inside_ratio:.1%} of rows, below {tolerances.min_inside:.1%}"
        if found.median_half_width_ratio > tolerances.max_half_width:
            yield (
                f"band: its median half-width {found.median_half_width_ratio:.1%} is above "
                f"{tolerances.max_half_width:.1%}"
            )
    if num_unanswered > tolerances.max_unanswered:
        yield f"answers: {num_unanswered} rows have none, and {tolerances.max_unanswered} may"
