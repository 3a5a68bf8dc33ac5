"""The best member of all families that fits: arrays say where to look, and the estimate confirms every answer."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vramplan.core.report import Phase
from vramplan.formula.band import band_of
from vramplan.formula.estimate import estimate
from vramplan.formula.setting import Setting
from vramplan.planner.preference import Preference
from vramplan.planner.search.batches import Batch, Batches
from vramplan.planner.search.evaluate import MAX_SHARE, Axes, Evaluator, Needs
from vramplan.planner.search.families import Family, Ground, families, length_keys
from vramplan.planner.search.grid import Values
from vramplan.planner.space import Space, precision_key
from vramplan.runfiles.flat import FlatRun

TOO_MUCH = np.iinfo(np.int64).max // 4
RANK = "LoRA rank"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One member of a family: indices of rows, rollout rows, lengths and ranks."""

    family: int
    row: int
    rollout_row: int
    length: int
    rank: int

    @property
    def place(self) -> tuple[int, int, int, int]:
        """The indices, as arrays take them."""
        return self.row, self.rollout_row, self.length, self.rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the estimate says of a run.

    Args:
        flat: its settings, the searched ones among them.
        setting: the same, resolved.
        phases: its phases.
        device_used_bytes: the highest of them.
        low_bytes, high_bytes: the band.
    """

    flat: FlatRun
    setting: Setting
    phases: tuple[Phase, ...]
    device_used_bytes: int
    low_bytes: int
    high_bytes: int


Accepts = Callable[[Answer], bool]


def answer_of(flat: FlatRun, ground: Ground) -> Answer:
    """Estimate a run.

    Raises:
        UsageError: no trainer takes it.
    """
    setting = ground.setting(flat)
    phases = estimate(setting).phases
    device = max(phase.device_used_bytes for phase in phases)
    low, high = band_of(setting, device)
    return Answer(flat=flat, setting=setting, phases=phases, device_used_bytes=device, low_bytes=low, high_bytes=high)


class Search:
    """Every candidate of a space.

    Args:
        space: what may change.
        ground: models, versions, card.
        batches: what the trainer takes.
        preference: which of two is better.
        progress: is told the share of families that have been evaluated.
    """

    def __init__(
        self,
        space: Space,
        ground: Ground,
        batches: Batches,
        preference: Preference,
        progress: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Evaluate all families."""
        self.space, self.ground, self.batches = space, ground, batches
        self.axes = Axes(rows=batches.rows, rollout_rows=batches.rollout_rows, lengths=space.lengths, ranks=space.ranks)
        self.families: Sequence[Family] = families(space, ground, preference)
        evaluator = Evaluator(ground, self.axes, space.share)
        self.needs: list[Needs] = []
        for number, family in enumerate(self.families, start=1):
            self.needs.append(evaluator.needs(family))
            progress(number / len(self.families))
        self._lengths: Values = np.array([preference.lengths(*length) for length in space.lengths])
        self._ranks: Values = np.array([preference.rank(rank) for rank in space.ranks])
        self._answers: dict[Cell, Answer] = {}
        # What the allocator holds beyond tensors: (device / array) by likeness and sizes, and the least by likeness.
        self._ratios: dict[Any, float] = {}
        self._least_ratios: dict[Any, float] = {}
        self._least = (0, 0)

    def lower(self, family: int, place: Any = ...) -> Values:
        """Bytes on the device that each member needs at least: rows × rollout rows × lengths × ranks, or at a place."""
        needs, shape = self.needs[family], self._shape(family)
        peak = needs.peak(shape, place) + self.ground.gpu.context_bytes
        sizes = self.batches.scores[self.families[family].accumulates][:, :, None, None]
        impossible = ~np.isfinite(np.broadcast_to(sizes, shape)[place])
        if needs.share is not None:
            impossible = impossible | (np.broadcast_to(needs.share[None, :, :, None], shape)[place] > MAX_SHARE)
        return np.where(impossible, TOO_MUCH, peak)

    def scores(self, family: int, place: Any = ...) -> Values:
        """How much each member is wanted, in the same shape, or the one at a place."""
        member, shape = self.families[family], self._shape(family)
        ranks = self._ranks if member.setting.run.training and member.setting.run.training.lora else np.zeros(1)
        sizes = self.batches.scores[member.accumulates][:, :, None, None]
        lengths = self._lengths[None, None, :, None]
        parts = (np.broadcast_to(part, shape)[place] for part in (sizes, lengths, ranks[None, None, None, :]))
        return sum(parts, start=member.score)

    def _shape(self, family: int) -> tuple[int, int, int, int]:
        axes = self.axes
        return len(axes.rows), len(axes.rollout_rows), len(axes.lengths), self.needs[family].own.shape[3]

    def batch(self, cell: Cell) -> Batch:
        """The rows of a member."""
        found = self.batches.best[self.families[cell.family].accumulates][cell.row][cell.rollout_row]
        assert found is not None
        return found

    def flat(self, cell: Cell) -> FlatRun:
        """The settings of a member."""
        family, batch, needs = self.families[cell.family], self.batch(cell), self.needs[cell.family]
        keys: dict[str, Any] = {**family.settings, **length_keys(*self.space.lengths[cell.length])}
        keys["per_device_batch_size"] = batch.per_device
        if self.space.method.rolls_out:
            keys["generations"] = batch.generations
        if batch.accumulation is not None:
            keys["gradient_accumulation_steps"] = batch.accumulation
            if batch.rows == batch.per_device:  # TRL up to 0.14 counts prompts in one and completions in the other
                keys["batch_size"] = batch.rows * (self.space.base.num_gpus or 1) * batch.accumulation
        if keys.get("tuning") == "lora":
            keys["lora_r"] = self.space.ranks[cell.rank]
        if needs.share is not None:
            keys["vllm_gpu_memory_utilization"] = float(needs.share[cell.rollout_row, cell.length])
            given = self.space.base.vllm_max_model_length
            keys["vllm_max_model_length"] = given or sum(self.space.lengths[cell.length])
        else:
            keys.pop("vllm_sleep", None)
        if not keys.get("offload"):
            keys.pop("offload", None)
        return self.space.base.merged(FlatRun(**self._in_one_word(keys)))

    def _in_one_word(self, keys: dict[str, Any]) -> dict[str, Any]:
        """One `quantization` where every role has the same: a file of RLT's has no word for each role."""
        names = [precision_key(role) for role in self.space.precisions]
        values = {keys.get(name) for name in names}
        if self.space.names_roles or len(values) > 1 or None in values:
            return keys
        return {key: value for key, value in keys.items() if key not in names} | {"quantization": values.pop()}

    def answer(self, cell: Cell) -> Answer:
        """The estimate of a member; what it says over the arrays is kept for its like."""
        if cell not in self._answers:
            found = self._answers[cell] = answer_of(self.flat(cell), self.ground)
            least = int(self.lower(cell.family, cell.place))
            likeness, ratio = self._likeness(cell.family), found.device_used_bytes / least
            self._ratios[likeness, cell.row, cell.rollout_row, cell.length] = ratio
            self._least_ratios[likeness] = min(ratio, self._least_ratios.get(likeness, ratio))
        return self._answers[cell]

    def best(self, limit: int, accepts: Accepts, *, least: Cell | None = None) -> tuple[Cell, Answer] | None:
        """The member that is wanted most of those accepted.

        Args:
            limit: device bytes that no accepted answer has more of.
            accepts: decides on an estimate.
            least: a member whose rows and tokens it must reach.
        """
        self._least = (0, 0) if least is None else (least.row, least.length)
        caps = [limit] * len(self.families)
        heap = [item for family in range(len(self.families)) if (item := self._first(family, limit)) is not None]
        heapq.heapify(heap)
        while heap:
            _, family, cell = heapq.heappop(heap)
            lower = int(self.lower(family, cell.place))
            if cell in self._answers or self._likely(cell, lower) <= limit:
                answer = self.answer(cell)
                if accepts(answer):
                    return self._climb(cell, answer, accepts, limit)
            caps[family] = min(lower - 1, caps[family])
            again = self._first(family, caps[family])
            if again is not None:
                heapq.heappush(heap, again)
        return None

    def smallest(self) -> tuple[Cell, Answer] | None:
        """The member that needs least, or None where the trainer takes none."""
        least, found = TOO_MUCH, None
        for family in range(len(self.families)):
            lower = self.lower(family)
            place = int(lower.argmin())
            if lower.flat[place] < least:
                least, found = int(lower.flat[place]), self._cell(family, place, lower.shape)
        return None if found is None else (found, self.answer(found))

    def larger(self, cell: Cell) -> Iterator[tuple[str, Cell]]:
        """The next larger member along each axis of sizes, with the step in words."""
        place, shape = cell.place, self._shape(cell.family)
        names = ("rows of a forward", "rows of a rollout", "tokens of a row", RANK)
        axes = (self.axes.rows, self.axes.rollout_rows, tuple(map(sum, self.axes.lengths)), self.axes.ranks)
        for axis, (name, values) in enumerate(zip(names, axes, strict=True)):
            for step in range(place[axis] + 1, shape[axis]):
                moved = [*place[:axis], step, *place[axis + 1 :]]
                larger = Cell(family=cell.family, row=moved[0], rollout_row=moved[1], length=moved[2], rank=moved[3])
                if self.score(larger) > float("-inf"):
                    before, after = f"{values[place[axis]]:,}", f"{values[step]:,}"
                    yield (
                        f"{name} {after} in place of {before}"
                        if name == RANK
                        else (f"{after} {name} in place of {before}"),
                        larger,
                    )
                    break

    def fitting(self, family: int, limit: int) -> Values:
        """Which members of a family are likely to fit, in the shape of `lower`."""
        ratio = self._least_ratio(self._likeness(family))
        fits: Values = self.lower(family) * ratio <= limit
        return fits

    def _first(self, family: int, cap: int) -> tuple[float, int, Cell] | None:
        """A family's most wanted member whose arrays leave it under a cap, as an item of a heap."""
        lower = self.lower(family)
        scores = np.where(lower <= cap, self.scores(family), -np.inf)
        rows, lengths = self._least
        scores[:rows], scores[:, :, :lengths] = -np.inf, -np.inf
        place = int(scores.argmax())
        if not np.isfinite(scores.flat[place]):
            return None
        cell = self._cell(family, place, scores.shape)
        return -float(scores.flat[place]), family, cell

    def _cell(self, family: int, place: int, shape: tuple[int, ...]) -> Cell:
        row, rollout_row, length, rank = (int(index) for index in np.unravel_index(place, shape))
        return Cell(family=family, row=row, rollout_row=rollout_row, length=length, rank=rank)

    def _climb(self, cell: Cell, answer: Answer, accepts: Accepts, limit: int) -> tuple[Cell, Answer]:
        """Move to better neighbours while they are accepted: the arrays may have left one of them out."""
        refused: set[Cell] = set()
        while True:
            here = self.score(cell)
            near = [(self.score(one), one) for one in self._neighbours(cell) if one not in refused]
            for score, one in sorted(near, key=lambda pair: -pair[0]):
                if score <= here or not self.is_likely(one, limit):
                    continue
                found = self.answer(one)
                if accepts(found):
                    cell, answer = one, found
                    break
                refused.add(one)
            else:
                return cell, answer

    def is_likely(self, cell: Cell, limit: int) -> bool:
        """Whether a member is worth an estimate where no more than `limit` bytes may be used."""
        return self._likely(cell, int(self.lower(cell.family, cell.place))) <= limit

    def _likely(self, cell: Cell, lower: int) -> float:
        """Bytes of a member by its arrays and what its like have shown: of the same sizes, else the least of all."""
        likeness = self._likeness(cell.family)
        ratio = self._ratios.get((likeness, cell.row, cell.rollout_row, cell.length))
        return lower * (self._least_ratios.get(likeness, 1.0) if ratio is None else ratio)

    def _least_ratio(self, likeness: Any) -> float:
        """The least that a family's like have shown; of any family where none of its like has been estimated."""
        return self._least_ratios.get(likeness) or min(self._least_ratios.values(), default=1.0)

    def score(self, cell: Cell) -> float:
        """How much a member is wanted; minus infinity where the trainer refuses it."""
        if self.lower(cell.family, cell.place) >= TOO_MUCH:
            return float("-inf")
        return float(self.scores(cell.family, cell.place))

    def _neighbours(self, cell: Cell) -> Iterator[Cell]:
        place = cell.place
        for axis, size in enumerate(self._shape(cell.family)):
            for step in (1, 2):
                if place[axis] + step < size:
                    moved = list(place)
                    moved[axis] += step
                    yield Cell(family=cell.family, row=moved[0], rollout_row=moved[1], length=moved[2], rank=moved[3])
        own = self.families[cell.family]
        for index, other in enumerate(self.families):
            if other.score > own.score and other.accumulates is own.accumulates and _differs_once(own, other):
                rank = min(cell.rank, self.needs[index].own.shape[3] - 1)
                yield Cell(family=index, row=cell.row, rollout_row=cell.rollout_row, length=cell.length, rank=rank)

    def _likeness(self, family: int) -> Any:
        member = self.families[family]
        settings = member.settings
        return (
            member.trained_precision,
            settings.get("tuning"),
            settings.get("gradient_checkpointing"),
            settings.get("rollout"),
            member.accumulates,
        )


def _differs_once(one: Family, other: Family) -> bool:
    keys = (set(one.settings) | set(other.settings)) - {"double_quant"}
    differing = [key for key in keys if one.settings.get(key) != other.settings.get(key)]
    return len(differing) == 1
