"""Runs that differ in their sizes only: what outlives phases is the same, and the phases are traced once.

A sweep asks for the same models, methods and versions at many lengths and batch sizes. Tracing such a run takes ten
times as long as doing the recorded arithmetic again; `tests/unit/formula/test_kinds.py` holds both to the same bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from vramplan.core.run import Method, Run, Sizes
from vramplan.formula.layout import Layout, picker
from vramplan.formula.phases import PhasePlan, plan_phases
from vramplan.formula.setting import Setting
from vramplan.formula.static import Static
from vramplan.formula.traced import Traced

if TYPE_CHECKING:
    from vramplan.formula.variable import Recording

MOST_KEPT = 64
"""Kinds that are kept, those asked for last."""
MOST_RECORDINGS = 4
"""Of one kind: sizes on either side of a window or a threshold go different ways."""

Values = tuple[int, ...]


class _Recorded(NamedTuple):
    """The phases of one run, to be made again.

    Args:
        recording: the arithmetic on its sizes.
        plans: the phases, without passes.
        rows: where the recording has each phase's rows.
        passes: for each phase its passes: their order, and what picks their sizes of the recording's.
    """

    recording: Recording
    plans: tuple[PhasePlan, ...]
    rows: tuple[int, ...]
    passes: tuple[tuple[tuple[Layout, Callable[[Sequence[int]], Sequence[int]]], ...], ...]

    def again(self, values: Values, run: Run) -> tuple[PhasePlan, ...] | None:
        """The phases for other sizes, or None where those go another way."""
        found = self.recording.again(values)
        if found is None:
            return None
        roles = {role.name: role for role in run.roles}
        return tuple(
            replace(
                plan,
                role=roles[plan.role.name],
                rows=found[rows],
                passes=tuple(Traced(layout=layout, sizes=pick(found)) for layout, pick in passes),
            )
            for plan, rows, passes in zip(self.plans, self.rows, self.passes, strict=True)
        )


class Kind:
    """Runs that differ in their sizes only.

    Attributes:
        static: what they all have on the device whatever phase runs.
    """

    __slots__ = ("_recorded", "_setting", "_was_traced", "static")

    def __init__(self, setting: Setting) -> None:
        """Of one of them, which keeps alive what the key names by identity."""
        self._setting = setting
        self._was_traced = False
        self._recorded: list[_Recorded] = []  # the ways that their sizes went so far, the last one first
        self.static = Static(setting)

    def phases(self, setting: Setting) -> tuple[PhasePlan, ...]:
        """What `plan_phases` says of one of them, sooner than it from the third on."""
        if not self._was_traced:  # the only one of its kind, as far as anyone knows
            self._was_traced = True
            return plan_phases(setting)
        if setting.run.method is Method.DPO:  # the height of the reference's pass is a size in the other's
            return plan_phases(setting)
        values = _values(setting.run)
        for index, one in enumerate(self._recorded):
            plans = one.again(values, setting.run)
            if plans is not None:
                self._recorded.insert(0, self._recorded.pop(index))
                return plans
        recorded = _record(setting)
        self._recorded = [recorded, *self._recorded][:MOST_RECORDINGS]
        plans = recorded.again(values, setting.run)
        assert plans is not None
        return plans


_kinds: OrderedDict[Hashable, Kind] = OrderedDict()


def kind_of(setting: Setting) -> Kind:
    """The kind of a run."""
    key = _key(setting)
    kind = _kinds.get(key)
    if kind is None:
        kind = _kinds[key] = Kind(setting)
        if len(_kinds) > MOST_KEPT:
            _kinds.popitem(last=False)
    else:
        _kinds.move_to_end(key)
    return kind


def _key(setting: Setting) -> Hashable:
    """Everything that a run's bytes depend on but sizes; of those, which are zero."""
    run = setting.run
    training = run.training
    if training is not None:
        training = replace(training, gradient_accumulation_steps=0)
    return (
        replace(run, sizes=None, training=training),  # type: ignore[arg-type]
        run.training is not None and run.training.gradient_accumulation_steps > 1,
        tuple(value > 0 for value in _values(run)),
        tuple(id(setting.models[role.name]) for role in run.roles),
        id(setting.stack),
        setting.gpu,
    )


def _values(run: Run) -> Values:
    """The sizes of a run."""
    sizes = run.sizes
    return (
        sizes.per_device_batch_size,
        sizes.rollout_rows,
        sizes.max_prompt_length,
        sizes.max_completion_length,
    )


def _record(setting: Setting) -> _Recorded:
    from vramplan.formula.variable import Recording  # a single run never needs it

    run = setting.run
    recording = Recording(_values(run))
    # A size of 0 stays an int: that there is none of it is part of the key.
    rows, rollout_rows, prompt, completion = (variable if variable.value else 0 for variable in recording.inputs)
    sizes = Sizes(
        per_device_batch_size=rows,  # type: ignore[arg-type]
        batch_size=None,
        num_generations=1,
        rollout_rows=rollout_rows,  # type: ignore[arg-type]
        max_prompt_length=prompt,  # type: ignore[arg-type]
        max_completion_length=completion,  # type: ignore[arg-type]
    )
    plans = plan_phases(replace(setting, run=replace(run, sizes=sizes)))
    recorded = _Recorded(
        recording=recording,
        plans=tuple(replace(plan, passes=(), rows=0) for plan in plans),
        rows=tuple(recording.index(plan.rows) for plan in plans),
        passes=tuple(
            tuple((one.layout, picker([recording.index(size) for size in one.sizes])) for one in plan.passes)
            for plan in plans
        ),
    )
    recording.close()
    return recorded
