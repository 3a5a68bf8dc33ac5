"""Which phases a run has, what each one runs, and which roles it needs on the device.

Sources: research/training-memory.md §2.3 (RLT) and §3.4 (TRL), read in SakanaAI/RLT at 86a3f5c and TRL 0.14 to 1.16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vramplan.core.run import Method, Role, RolloutBackend, Training
from vramplan.formula.batch import Batch
from vramplan.formula.heads import (
    Head,
    all_logits,
    chunked_loss,
    full_length_scorer,
    last_logits,
    log_probability_loss,
    model_loss,
    scorer,
)
from vramplan.formula.logprobs import code_of
from vramplan.formula.modules import Modules
from vramplan.formula.passes import trace_forward, trace_step
from vramplan.formula.recompute import Checkpoint, checkpoint
from vramplan.formula.reentrant import checkpoint_reentrant
from vramplan.formula.setting import Setting
from vramplan.formula.traced import Traced

FLASH_CAPABILITY = (8, 0)
"""sdp_utils.cpp: flash attention inside sdpa asks for compute capability 8.0."""


@dataclass(frozen=True, kw_only=True)
class PhasePlan:
    """One phase.

    Args:
        name: `prefill`, `decode`, `score`, `rollout`, `reference`, `train`, …
        role: whose weights run.
        passes: what runs, one after another; the phase's peak is the highest of them.
        rows: sequences in one of them.
        gradients_alive: whether gradients of earlier micro-batches are alive.
        engine_awake: whether a colocated rollout engine holds its share.
    """

    name: str
    role: Role
    passes: tuple[Traced, ...]
    rows: int
    gradients_alive: bool = False
    engine_awake: bool = True


PeakOf = Callable[[Traced], int]


def peak_of(traced: Traced) -> int:
    """Bytes in use at the highest point of a pass."""
    return traced.level({}).peak_bytes


def plan_phases(setting: Setting) -> tuple[PhasePlan, ...]:
    """The phases of one cycle in their order; loading and the optimizer step are not among them."""
    return (*rollout_plans(setting), *plan_own_phases(setting))


def plan_own_phases(setting: Setting, peak: PeakOf = peak_of) -> tuple[PhasePlan, ...]:
    """The same without the rollout.

    Args:
        setting: the run.
        peak: how the height of a pass is taken, where one pass runs inside another.
    """
    if setting.run.method is Method.DPO:
        return _dpo(setting, peak)
    return PLANS[setting.run.method](setting)


def _inference(setting: Setting) -> tuple[PhasePlan, ...]:
    sizes, role = setting.run.sizes, setting.run.trained
    passes = generation(setting, role, sizes.per_device_batch_size)
    names = ("prefill", "decode")
    rows = sizes.per_device_batch_size
    return tuple(
        PhasePlan(name=name, role=role, passes=(one,), rows=rows) for name, one in zip(names, passes, strict=True)
    )


def _score(setting: Setting) -> tuple[PhasePlan, ...]:
    sizes = setting.run.sizes
    plans = []
    for role in setting.run.roles:
        batch = new_batch(setting, sizes.per_device_batch_size, sizes.sequence_length, caches=True)
        name = "score" if len(setting.run.roles) == 1 else f"score_{role.name}"
        passes = (forward(setting, role, batch, all_logits),)
        plans.append(PhasePlan(name=name, role=role, passes=passes, rows=sizes.per_device_batch_size))
    return tuple(plans)


def _sft(setting: Setting) -> tuple[PhasePlan, ...]:
    sizes = setting.run.sizes
    batch = new_batch(setting, sizes.per_device_batch_size, sizes.sequence_length, trains=True)
    batch.returns_keys = setting.checkpoints_return_keys
    chunked = "trl" in setting.stack.named and (setting.stack.sft_chunked_loss or setting.stack.fused_lm_head)
    return (train_plan(setting, batch, chunked_loss if chunked else model_loss),)


def _dpo(setting: Setting, peak: PeakOf) -> tuple[PhasePlan, ...]:
    """TRL's DPOTrainer: chosen and rejected in one forward; the reference runs while its graph is alive."""
    sizes = setting.run.sizes
    rows, tokens = 2 * sizes.per_device_batch_size, sizes.sequence_length
    code = code_of(setting.stack, rlt=False)
    reference = setting.run.role("reference")
    scratch = 0
    if reference is not None:
        scored = forward(setting, reference, new_batch(setting, rows, tokens), scorer(rows, tokens - 1, code))
        scratch = peak(scored)
    batch = new_batch(setting, rows, tokens, trains=True)
    return (train_plan(setting, batch, log_probability_loss(rows, tokens - 1, code, scratch=scratch)),)


def _grpo(setting: Setting) -> tuple[PhasePlan, ...]:
    sizes, trained = setting.run.sizes, setting.run.trained
    rows, completion = sizes.per_device_batch_size, sizes.max_completion_length
    code = code_of(setting.stack, rlt=False)
    plans: list[PhasePlan] = []
    head = scorer(rows, completion, code)
    if setting.run.rollout is not None and setting.run.rollout.backend is not RolloutBackend.HF:
        scored = forward(setting, trained, new_batch(setting, rows, sizes.sequence_length), head)
        plans.append(
            PhasePlan(name="old_logprobs", role=trained, passes=(scored,), rows=rows, engine_awake=_awake(setting))
        )
    reference = setting.run.role("reference")
    if reference is not None:
        scored = forward(setting, reference, new_batch(setting, rows, sizes.sequence_length), head)
        plans.append(
            PhasePlan(name="reference", role=reference, passes=(scored,), rows=rows, engine_awake=_awake(setting))
        )
    batch = new_batch(setting, rows, sizes.sequence_length, trains=True)
    plans.append(train_plan(setting, batch, log_probability_loss(rows, completion, code)))
    return tuple(plans)


def _rlt(setting: Setting) -> tuple[PhasePlan, ...]:
    """RLT scores one sequence at a time over its full length, with the student and with the teacher."""
    sizes, run = setting.run.sizes, setting.run
    plans: list[PhasePlan] = []
    student, reference = run.role("student") or run.role("reference"), run.role("reference")
    awake = _awake(setting)
    full_length = full_length_scorer
    for name, role in (("score", student), ("teacher_score", run.trained)):
        if role is not None:
            batch = new_batch(setting, 1, sizes.sequence_length, caches=role is not run.trained)
            passes = (forward(setting, role, batch, full_length),)
            plans.append(PhasePlan(name=name, role=role, passes=passes, rows=1, engine_awake=awake))
    rows, completion = sizes.per_device_batch_size, sizes.max_completion_length
    code = code_of(setting.stack, rlt=True)
    if reference is not None:
        batch = new_batch(setting, rows, sizes.sequence_length, caches=True)
        passes = (forward(setting, reference, batch, scorer(rows, completion, code)),)
        plans.append(
            PhasePlan(
                name="reference",
                role=reference,
                passes=passes,
                rows=rows,
                gradients_alive=_accumulates(setting),
                engine_awake=awake,
            )
        )
    batch = new_batch(setting, rows, sizes.sequence_length, trains=True)
    plans.append(train_plan(setting, batch, log_probability_loss(rows, completion, code)))
    return tuple(plans)


PLANS: dict[Method, Callable[[Setting], tuple[PhasePlan, ...]]] = {
    Method.INFERENCE: _inference,
    Method.SCORE: _score,
    Method.SFT: _sft,
    Method.GRPO: _grpo,
    Method.RLT: _rlt,
}


def new_batch(setting: Setting, rows: int, tokens: int, *, caches: bool = False, trains: bool = False) -> Batch:
    """A batch for one forward under the run's attention and stack."""
    return Batch(
        rows=rows,
        tokens=tokens,
        implementation=setting.run.attn_implementation,
        flash_available=setting.gpu.compute_capability >= FLASH_CAPABILITY,
        caches=caches,
        groups_heads=setting.stack.sdpa_groups_heads,
        trains=trains,
        sliding_cache=setting.stack.sliding_cache,
        latent_cache=setting.stack.latent_cache_compressed,
    )


def forward(setting: Setting, role: Role, batch: Batch, head: Head) -> Traced:
    """A forward of one role without gradients."""
    training = setting.run.training if role is setting.run.trained else None
    model = setting.models[role.name]
    modules = Modules(model, role.load, training, setting.stack, unfrozen=_is_unfrozen(setting, role))
    return trace_forward(model, modules, batch, head(setting, role, modules), autocast=setting.autocast(role))


def _is_unfrozen(setting: Setting, role: Role) -> bool:
    """TRL's reference and RLT's student are loaded and never frozen; RLT's reference is (research §3.2, AMP rule)."""
    frozen = "reference" if setting.run.method is Method.RLT else None
    trains = setting.run.training is not None
    return (
        trains
        and role is not setting.run.trained
        and role.name != frozen
        and not role.load.quantization.is_bitsandbytes
    )


def generation(setting: Setting, role: Role, rows: int) -> tuple[Traced, Traced]:
    """Prefill of the prompts, and the last decode step over the full cache."""
    sizes = setting.run.sizes
    prefill = new_batch(setting, rows, sizes.max_prompt_length, caches=True)
    decode = new_batch(setting, rows, 1, caches=True)
    # The prefill yields the first token of the completion, and the last one is never fed back.
    decode.past_tokens = sizes.max_prompt_length + max(sizes.max_completion_length - 2, 0)
    return forward(setting, role, prefill, last_logits), forward(setting, role, decode, last_logits)


def rollout_plans(setting: Setting) -> tuple[PhasePlan, ...]:
    """Generation by transformers on the training weights, or by an engine that holds memory of its own."""
    rollout, trained = setting.run.rollout, setting.run.trained
    if rollout is None:
        return ()
    passes: tuple[Traced, ...] = ()
    if rollout.backend is RolloutBackend.HF:
        passes = generation(setting, trained, setting.run.sizes.rollout_rows)
    return (PhasePlan(name="rollout", role=trained, passes=passes, rows=setting.run.sizes.rollout_rows),)


def train_plan(setting: Setting, batch: Batch, head: Head) -> PhasePlan:
    """One micro-batch of the trained role, at its fullest: from the second one on gradients are alive."""
    training, role = setting.run.training, setting.run.trained
    assert training is not None
    rows = batch.rows
    # Sharded gradients are reduced layer by layer, and DDP's buckets are there from the start.
    accumulates = _accumulates(setting) or setting.run.sharding.num_gpus > 1
    model = setting.models[role.name]
    modules = Modules(model, role.load, training, setting.stack, gradients_exist=accumulates)
    step = trace_step(
        model,
        modules,
        batch,
        head(setting, role, modules),
        autocast=setting.autocast(role),
        checkpoint=_checkpoint(training),
    )
    return PhasePlan(
        name="train",
        role=role,
        passes=(step,),
        rows=rows,
        gradients_alive=accumulates,
        engine_awake=_awake(setting),
    )


def _checkpoint(training: Training) -> Checkpoint | None:
    if not training.gradient_checkpointing:
        return None
    return checkpoint_reentrant if training.reentrant_checkpointing else checkpoint


def _accumulates(setting: Setting) -> bool:
    training = setting.run.training
    return training is not None and training.gradient_accumulation_steps > 1


def _awake(setting: Setting) -> bool:
    return setting.run.rollout is not None and not setting.run.rollout.sleep
