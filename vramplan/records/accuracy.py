"""Everything that `vramplan accuracy` found, in one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vramplan.records.scoring import GroupKey, Score, Statistics, grouped, statistics_of
from vramplan.records.tolerances import FAMILIES, Tolerances, exceeded
from vramplan.records.truth import TruthRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Unanswered:
    """A row that got no prediction, and why."""

    row: TruthRow
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Scores of one way of predicting.

    Args:
        how: `estimate`, `simulate` or `measure`.
        scores: in the rows' order.
        unanswered: rows without a score.
        beyond: sentences on what is outside tolerance.
    """

    how: str
    scores: tuple[Score, ...]
    unanswered: tuple[Unanswered, ...]
    beyond: tuple[str, ...]

    @property
    def groups(self) -> Mapping[GroupKey, Statistics]:
        """Statistics by source, method, quantisation and kind."""
        return {key: statistics_of(members) for key, members in grouped(self.scores).items()}

    @property
    def families(self) -> Mapping[str, Statistics]:
        """Statistics by kind over all sources, the two device kinds together."""
        members = {name: [item for item in self.scores if item.row.kind in kinds] for name, kinds in FAMILIES.items()}
        return {name: statistics_of(scores) for name, scores in members.items() if scores}


def accuracy_of(
    how: str, scores: tuple[Score, ...], unanswered: tuple[Unanswered, ...], tolerances: Tolerances
) -> Accuracy:
    """Scores held against tolerances."""
    beyond = tuple(exceeded(scores, len(unanswered), tolerances))
    return Accuracy(how=how, scores=scores, unanswered=unanswered, beyond=beyond)
