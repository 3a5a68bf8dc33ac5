"""The bytes that every member of every family has allocated at its peak: one array for each family."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vramplan.core.run import Method, Role, RolloutBackend, Run
from vramplan.formula.kv_cache import kv_cache_bytes
from vramplan.formula.loading import largest_temporary
from vramplan.formula.setting import Setting
from vramplan.formula.static import Static, kept_outputs_bytes
from vramplan.planner.search.families import Family, Ground
from vramplan.planner.search.grid import Values, is_grid
from vramplan.planner.search.tables import Points, at, own_peaks, rollout_peaks

ENGINE_CACHE_SHARE = 0.9
"""Of what vLLM's share leaves beside its weights, what is taken to be blocks of its KV cache; the rest is for the
activations of its profile run and CUDA graphs. Chosen, not measured."""
SHARE_STEP = 0.05
MAX_SHARE = 0.95
NO_SHARE = 2.0
"""Of the card, where no share that may be had holds the rollout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """The axes of a family's arrays: rows × rollout rows × lengths × ranks."""

    rows: tuple[int, ...]
    rollout_rows: tuple[int, ...]
    lengths: tuple[tuple[int, int], ...]
    ranks: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a family's members need, the context and what the allocator caches left out.

    Args:
        own: bytes of the highest phase but the rollout: rows × 1 × lengths × ranks.
        rollout: bytes of the rollout, an engine's share among them: 1 × rollout rows × lengths × ranks.
        share: vLLM's share of the card for rollout rows × lengths, or None without one; above `MAX_SHARE` where the
            engine does not hold the rollout.
    """

    own: Values
    rollout: Values
    share: Values | None

    def peak(self, shape: tuple[int, ...], place: Any) -> Values:
        """Bytes of the highest phase of the members at a place of a family's arrays of that shape."""
        return np.maximum(*(np.broadcast_to(part, shape)[place] for part in (self.own, self.rollout)))


class Evaluator:
    """Evaluates families, each table of phases once.

    Args:
        ground: models, versions, card.
        axes: sizes of all members.
        share: vLLM's share where it is given.
    """

    def __init__(self, ground: Ground, axes: Axes, share: float | None) -> None:
        """See the class."""
        self._ground = ground
        self._axes = axes
        self._share = share
        self._own: dict[Hashable, Values] = {}
        self._rollouts: dict[Hashable, Values] = {}
        self._statics: dict[Hashable, _Resident] = {}

    def needs(self, family: Family) -> Needs:
        """See `Needs`."""
        setting, axes = family.setting, self._axes
        run = setting.run
        ranks = axes.ranks if _trains_adapters(run) else axes.ranks[:1]
        residents = [self._resident(setting, rank) for rank in ranks]
        peaks = self._own_peaks(family, ranks)
        share = self._engine_share(setting)
        engine = None if share is None else (share * setting.gpu.total_bytes).astype(np.int64)[None, :, :, None]
        shape = len(axes.rows), len(axes.lengths), len(ranks)
        own: Values = np.zeros((shape[0], 1, shape[1], shape[2]), dtype=np.int64)
        awake_all = run.rollout is not None and not run.rollout.sleep and engine is not None
        if awake_all:
            own = np.zeros((shape[0], len(axes.rollout_rows), shape[1], shape[2]), dtype=np.int64)
        for name, (role, values) in peaks.items():
            base = np.array([one.phase_bytes(role, name, family.accumulates) for one in residents], dtype=np.int64)
            level = (values + base)[:, None]
            own = np.maximum(own, level + engine if awake_all else level)
        if run.training is not None:
            step = self._step_bytes(setting, residents)
            own = np.maximum(own, step + engine if awake_all else step)
        loading = np.array([one.load_bytes for one in residents], dtype=np.int64)
        own = np.maximum(own, loading)
        rollout: Values = np.zeros((1, len(axes.rollout_rows), shape[1], shape[2]), dtype=np.int64)
        if run.rollout is not None:
            base = np.array([one.rollout_bytes(run.trained) for one in residents], dtype=np.int64)
            rollout = (self._rollout_peaks(setting, ranks) + base)[None]
            if engine is not None:
                rollout = rollout + engine
        return Needs(own=own, rollout=rollout, share=share)

    def _own_peaks(self, family: Family, ranks: tuple[int, ...]) -> dict[str, tuple[Role, Values]]:
        """For each phase its role and rows × lengths × ranks of bytes beside what is resident."""
        setting = family.setting
        roles = _phase_roles(setting.run)
        keys = {name: _key(setting, name, role) for name, role in roles.items()}
        if any(key not in self._own for key in keys.values()):
            found = own_peaks(setting, self._points(self._axes.rows, ranks))
            shape = len(self._axes.rows), len(self._axes.lengths), len(ranks)
            for name, values in found.items():
                table = values.reshape(shape)
                # Adapters are the trained role's: the others' phases are the same at every rank.
                self._own[keys[name]] = table if roles[name] is setting.run.trained else table[..., :1]
        return {name: (role, self._own[keys[name]]) for name, role in roles.items()}

    def _rollout_peaks(self, setting: Setting, ranks: tuple[int, ...]) -> Values:
        key = _key(setting, "rollout", setting.run.trained)
        if key not in self._rollouts:
            values = rollout_peaks(setting, self._points(self._axes.rollout_rows, ranks))
            self._rollouts[key] = values.reshape(len(self._axes.rollout_rows), len(self._axes.lengths), len(ranks))
        return self._rollouts[key]

    def _points(self, rows: tuple[int, ...], ranks: tuple[int, ...]) -> Points:
        prompts = [prompt for prompt, _ in self._axes.lengths]
        completions = [completion for _, completion in self._axes.lengths]
        grid: list[Values] = list(np.meshgrid(rows, np.arange(len(prompts)), ranks, indexing="ij"))
        rows_at, length_at, ranks_at = (axis.ravel().astype(np.int64) for axis in grid)
        return Points(
            rows=rows_at,
            prompt=np.array(prompts, dtype=np.int64)[length_at],
            completion=np.array(completions, dtype=np.int64)[length_at],
            ranks=ranks_at,
        )

    def _step_bytes(self, setting: Setting, residents: list[_Resident]) -> Values:
        """The optimizer's step: rows × 1 × lengths × ranks."""
        base = np.array([one.step_bytes for one in residents], dtype=np.int64)
        points = self._points(self._axes.rows, self._axes.ranks[:1])
        kept: Any = kept_outputs_bytes(at(setting, points, rollout=False))
        values: Values = kept.values if is_grid(kept) else np.full(len(points), kept)
        shape = len(self._axes.rows), 1, len(self._axes.lengths), 1
        return values.reshape(shape) + base

    def _engine_share(self, setting: Setting) -> Values | None:
        """The least share of the card that holds a colocated engine's weights and all rollout rows at once."""
        rollout = setting.run.rollout
        if rollout is None or rollout.backend is not RolloutBackend.VLLM_COLOCATE:
            return None
        rows, lengths = self._axes.rollout_rows, self._axes.lengths
        needed = needed_share(setting, np.array([[row * sum(length) for length in lengths] for row in rows]))
        if self._share is not None:
            return np.where(needed <= self._share, self._share, NO_SHARE)
        return in_steps(needed)

    def _resident(self, setting: Setting, rank: int) -> _Resident:
        run = with_rank(setting.run, rank)
        training = run.training
        key = (
            run.roles,
            None if training is None else (training.tuning, training.lora, training.optim, training.mixed_precision),
        )
        if key not in self._statics:
            self._statics[key] = _Resident(Static(replace(setting, run=run)))
        return self._statics[key]


class _Resident:
    """Bytes of a run that do not depend on its sizes.

    Args:
        static: of the run.
    """

    def __init__(self, static: Static) -> None:
        self._static = static
        (workspace, threads), *_ = static.workspace_sizes
        self._fixed = static.adapters_bytes + static.states_bytes + workspace * threads
        self.load_bytes = self._weights(None) + static.adapters_bytes + largest_temporary(static.setting)
        self.step_bytes = (
            self._weights(static.setting.run.trained) + self._fixed + static.gradients_bytes + static.step_bytes
        )

    def phase_bytes(self, role: Role, name: str, accumulates: bool) -> int:
        """What is resident in a phase beside the bytes that it makes."""
        static = self._static
        run = static.setting.run
        alive = name == "train" and (accumulates or run.sharding.num_gpus > 1)
        alive = alive or (name == "reference" and run.method is Method.RLT and accumulates)
        gathered = static.gathered_bytes(role, generates=False)
        return self._weights(role) + self._fixed + gathered + (static.gradients_bytes if alive else 0)

    def rollout_bytes(self, role: Role) -> int:
        """What is resident while completions are made."""
        rollout = self._static.setting.run.rollout
        generates = rollout is not None and rollout.backend is RolloutBackend.HF
        gathered = self._static.gathered_bytes(role, generates=True) if generates else 0
        return self._weights(role) + self._fixed + gathered

    def _weights(self, active: Role | None) -> int:
        static = self._static
        run = static.setting.run
        mine = None if active is None else run.role(active.name)  # the same role of this very run
        return sum(
            static.weights_bytes(role)
            for role in run.roles
            if (not role.offloaded if mine is None else static.is_resident(role, mine))
        )


def needed_share(setting: Setting, tokens: Values) -> Values:
    """The share of the card that a colocated engine needs for its weights and for tokens of KV cache."""
    trained = setting.run.trained
    token = kv_cache_bytes(setting.models[trained.name], setting.stack, rows=1, tokens=1, dtype=trained.load.dtype)
    weights = sum(one.num_bytes for one in setting.stored[trained.name])
    return (weights + tokens * token / ENGINE_CACHE_SHARE) / setting.gpu.total_bytes


def in_steps(share: Values) -> Values:
    """Shares, each rounded up to the next step that one would write."""
    return np.round(np.ceil(share / SHARE_STEP) * SHARE_STEP, 2)


def with_rank(run: Run, rank: int) -> Run:
    """The run with adapters of another rank; the same run where it has none."""
    training = run.training
    if training is None or training.lora is None:
        return run
    return replace(run, training=replace(training, lora=replace(training.lora, r=rank)))


def _trains_adapters(run: Run) -> bool:
    return run.training is not None and run.training.lora is not None


def _phase_roles(run: Run) -> dict[str, Role]:
    """The phases but the rollout, as `vramplan.formula.phases` names them, and whose weights run."""
    trained, reference = run.trained, run.role("reference")
    if run.method is Method.INFERENCE:
        return {"prefill": trained, "decode": trained}
    if run.method is Method.SCORE:
        return {"score" if len(run.roles) == 1 else f"score_{role.name}": role for role in run.roles}
    phases: dict[str, Role] = {}
    if run.method is Method.GRPO:
        if run.rollout is not None and run.rollout.backend is not RolloutBackend.HF:
            phases["old_logprobs"] = trained
    elif run.method is Method.RLT:
        student = run.role("student") or reference
        if student is not None:
            phases["score"] = student
        phases["teacher_score"] = trained
    if reference is not None and run.method in (Method.GRPO, Method.RLT):
        phases["reference"] = reference
    phases["train"] = trained
    return phases


def _key(setting: Setting, name: str, role: Role) -> Hashable:
    """What the bytes that a phase makes depend on, sizes left out."""
    run = setting.run
    training = run.training
    key: tuple[Hashable, ...] = (name, role.load, role.model, run.attn_implementation, run.rollout is None)
    if training is None:
        return key
    key = (*key, training.mixed_precision)
    if role is run.trained:
        key = (*key, training.tuning, None if training.lora is None else training.lora.target_modules)
    if name == "train":
        key = (*key, training.gradient_checkpointing, training.gradient_accumulation_steps > 1)
        if run.method is Method.DPO:
            reference = run.role("reference")
            key = (*key, None if reference is None else reference.load)
    return key
