"""The Pareto frontier of context × rows of a forward × rows of a rollout, for each precision of the trained model."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from operator import itemgetter

import numpy as np

from vramplan.core.recommendation import FrontierPoint
from vramplan.planner.search.best import Cell, Search
from vramplan.planner.search.grid import Values

MOST_POINTS = 6
"""Points of a precision that are confirmed and shown, beside the furthest along each axis."""
MOST_TRIED = 3
"""Members that are estimated at a place before it is given up."""
MOST_PLACES = 128
"""Places of a precision that are tried: where the arrays say far less than the estimate, most of them are refused."""
Place = tuple[int, int, int]
"""Indices of rows, rollout rows and lengths."""


def frontier_of(search: Search, budget_bytes: int, limit: int) -> tuple[FrontierPoint, ...]:
    """Points that fit, for each precision from the longest rows down.

    Args:
        search: every candidate.
        budget_bytes: what the top of a point's band must fit.
        limit: device bytes whose band just fits.
    """
    points: list[FrontierPoint] = []
    for precision in dict.fromkeys(family.trained_precision for family in search.families):
        found = _points(search, precision, budget_bytes, limit)
        kept = [point for point in found if not any(_beats(other, point) for other in found)]
        points += sorted(kept, key=lambda point: (-point.prompt - point.completion, -point.rows, -point.rollout_rows))
    return tuple(points)


def _points(search: Search, precision: str, budget_bytes: int, limit: int) -> list[FrontierPoint]:
    """Confirmed members at the places of the precision's frontier.

    A place that the estimate refuses is left out with all beyond it, and the frontier is drawn again.
    """
    mine = [index for index, family in enumerate(search.families) if family.trained_precision == precision]
    shape = len(search.axes.rows), len(search.axes.rollout_rows), len(search.axes.lengths)
    scores: Values = np.full((len(mine), *shape), -np.inf)
    ranks: Values = np.zeros((len(mine), *shape), dtype=np.int64)
    for number, index in enumerate(mine):
        wanted = np.where(search.fitting(index, limit), search.scores(index), -np.inf)
        scores[number], ranks[number] = wanted.max(axis=3), wanted.argmax(axis=3)
    highest = scores.max(axis=0)
    fits = np.isfinite(highest)
    confirmed: dict[Place, FrontierPoint] = {}
    for _ in range(MOST_PLACES):
        place = _next_place(list(_undominated(fits)), highest, confirmed)
        if place is None:
            break
        row, rollout_row, length = place
        here = scores[:, row, rollout_row, length]
        cells = [
            Cell(
                family=mine[number],
                row=row,
                rollout_row=rollout_row,
                length=length,
                rank=int(ranks[number, row, rollout_row, length]),
            )
            for number in map(int, np.argsort(-here, kind="stable"))
            if np.isfinite(here[number])
        ]
        point = _confirmed(search, cells, budget_bytes, limit)
        if point is None:
            fits[row:, rollout_row:, length:] = False
        else:
            confirmed[place] = point
    return list(confirmed.values())


def _next_place(places: list[Place], highest: Values, confirmed: Collection[Place]) -> Place | None:
    """The next place to confirm: the furthest along each axis, then the most wanted ones."""
    if not places:
        return None
    furthest = [max(places, key=itemgetter(axis)) for axis in range(3)]
    wanted = sorted(places, key=lambda place: -float(highest[place]))[:MOST_POINTS]
    return next((place for place in (*furthest, *wanted) if place not in confirmed), None)


def _undominated(fits: Values) -> Iterator[Place]:
    """Places that fit and beyond which, along no axis, anything does."""
    for row, rollout_row, length in np.argwhere(fits):
        beyond = fits[row:, rollout_row:, length:]
        if int(beyond.sum()) == 1:
            yield int(row), int(rollout_row), int(length)


def _confirmed(search: Search, cells: list[Cell], budget_bytes: int, limit: int) -> FrontierPoint | None:
    """The first of a few members that the estimate lets fit, or None."""
    tried = 0
    for cell in cells:
        if not search.is_likely(cell, limit):
            continue
        answer = search.answer(cell)
        if answer.high_bytes <= budget_bytes:
            prompt, completion = search.axes.lengths[cell.length]
            return FrontierPoint(
                precision=search.families[cell.family].trained_precision,
                run=answer.flat.to_dict(),
                prompt=prompt,
                completion=completion,
                rows=search.axes.rows[cell.row],
                rollout_rows=search.axes.rollout_rows[cell.rollout_row],
                device_used_bytes=answer.device_used_bytes,
                high_bytes=answer.high_bytes,
            )
        tried += 1
        if tried == MOST_TRIED:
            break
    return None


def _beats(one: FrontierPoint, other: FrontierPoint) -> bool:
    first = (one.prompt + one.completion, one.rows, one.rollout_rows)
    second = (other.prompt + other.completion, other.rows, other.rollout_rows)
    return first != second and all(mine >= theirs for mine, theirs in zip(first, second, strict=True))
