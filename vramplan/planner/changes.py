"""The cheapest single change that makes a run fit: each tried on the estimate, with the bytes it frees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vramplan.catalog.dirs import ProfileDirs
from vramplan.catalog.stacks import load_stack
from vramplan.core.recommendation import Change, Obstacle
from vramplan.core.report import Component, Phase
from vramplan.core.run import Method, Quantization, RolloutBackend, Tuning
from vramplan.errors import VramplanError
from vramplan.planner.search.best import Answer, answer_of
from vramplan.planner.search.families import Ground
from vramplan.planner.space import precision_key
from vramplan.planner.trainer_rules import engine_refusal, refusal
from vramplan.runfiles.flat import FlatRun

NEWER_TRL = "1.16.0"
"""The newest that was read (profiles/stacks/trl.toml); log-probabilities are taken in tiles from 1.15.0 on."""
MOST_CHANGES = 4
FIXED = frozenset({Component.WEIGHTS, Component.CONTEXT, Component.WORKSPACE, Component.ADAPTERS, Component.OPTIMIZER})
"""Parts that do not grow with rows and tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Try:
    what: str
    settings: Mapping[str, object]


def obstacle(what: str, answer: Answer, ground: Ground, budget_bytes: int, dirs: ProfileDirs) -> Obstacle:
    """Why a run does not fit, and the changes that help, those that suffice first.

    Args:
        what: the run in words.
        answer: its estimate.
        ground: models, versions, card.
        budget_bytes: what the top of the band must fit.
        dirs: where profiles lie.
    """
    phase = deciding_phase(answer)
    changes: list[Change] = []
    for one in _tries(answer):
        found = _changed(answer, one, ground, dirs)
        if found is None:
            continue
        settings, changed = found
        freed = answer.device_used_bytes - changed.device_used_bytes
        if freed > 0:
            fits = changed.high_bytes <= budget_bytes
            changes.append(Change(what=one.what, settings=settings, freed_bytes=freed, fits=fits))
    changes.sort(key=lambda change: not change.fits)  # the order of _tries is from cheap to dear, and sorting is stable
    return Obstacle(
        what=what,
        phase=phase.name,
        component=growing_component(phase).value,
        over_bytes=answer.high_bytes - budget_bytes,
        changes=tuple(changes[:MOST_CHANGES]),
    )


def deciding_phase(answer: Answer) -> Phase:
    """The phase with the most device memory."""
    return max(answer.phases, key=lambda phase: phase.device_used_bytes)


def growing_component(phase: Phase) -> Component:
    """The largest part of a phase that grows with rows and tokens; the largest of all where none does."""
    sized = [(phase.component_bytes(one), one.value, one) for one in Component]
    growing = [item for item in sized if item[2] not in FIXED and item[0]]
    return max(growing or sized)[2]


def _changed(
    answer: Answer, one: _Try, ground: Ground, dirs: ProfileDirs
) -> tuple[Mapping[str, object], Answer] | None:
    """The settings that a change sets, and the run with them; None where no trainer takes it."""
    settings = dict(one.settings)
    flat = answer.flat
    if "tuning" in settings:
        flat = FlatRun(**{key: value for key, value in flat.given().items() if key != "tuning"})
    try:
        changed = flat.merged(FlatRun(**settings))  # type: ignore[arg-type]
        if "stack" in settings:
            versions = {**(flat.stack or {}), **dict(settings["stack"])}  # type: ignore[call-overload]
            ground = Ground(models=ground.models, stack=load_stack(versions, dirs), gpu=ground.gpu)
            if answer.setting.stack.rows_are_prompts and not ground.stack.rows_are_prompts:
                # The same rows of a forward, which the newer trainer counts one by one.
                settings["per_device_batch_size"] = answer.setting.run.sizes.per_device_batch_size
            changed = flat.merged(FlatRun(**{**settings, "stack": versions}))  # type: ignore[arg-type]
        found = answer_of(changed, ground)
    except VramplanError:
        return None  # no trainer takes it so
    return (settings, found) if _is_taken(found) else None


def _is_taken(answer: Answer) -> bool:
    """Whether the trainer takes a run that resolves."""
    run, stack = answer.setting.run, answer.setting.stack
    steps = 1 if run.training is None else run.training.gradient_accumulation_steps
    rollout = run.rollout
    if rollout is not None and rollout.backend is RolloutBackend.VLLM_COLOCATE:
        if run.trained.load.quantization is Quantization.INT8:  # TRL generation/vllm_generation.py 341-348
            return False
        if engine_refusal(run.method, stack, sleeps=rollout.sleep) is not None:
            return False
    refused = refusal(
        run.method,
        stack,
        per_device=answer.flat.per_device_batch_size or 1,
        generations=run.sizes.num_generations,
        accumulation=steps,
        num_gpus=run.sharding.num_gpus,
    )
    return refused is None


def _tries(answer: Answer) -> Iterator[_Try]:
    """Changes from the cheapest to the dearest in what they do to the run."""
    run, training = answer.setting.run, answer.setting.run.training
    flat, stack = answer.flat, answer.setting.stack
    if training is not None and not training.gradient_checkpointing:
        yield _Try(what="gradient checkpointing", settings={"gradient_checkpointing": True})
    if run.attn_implementation.value == "eager":
        yield _Try(what="sdpa in place of eager attention", settings={"attn_implementation": "sdpa"})
    rollout = run.rollout
    if rollout is not None and rollout.backend is RolloutBackend.VLLM_COLOCATE and not rollout.sleep:
        yield _Try(what="vLLM sleeps outside the rollout", settings={"vllm_sleep": True})
    yield from _precisions(answer)
    if training is not None and training.tuning is Tuning.FULL:
        for optim in ("adamw_8bit", "paged_adamw_8bit"):
            if training.optim != optim:
                yield _Try(what=f"the {optim} optimizer", settings={"optim": optim})
        yield _Try(what="LoRA in place of full training", settings={"tuning": "lora"})
    for role in run.roles[1:]:
        if not role.offloaded and not role.shares:
            others = [one.name for one in run.roles if one.offloaded]
            yield _Try(what=f"the {role.name} rests in host memory", settings={"offload": (*others, role.name)})
    reference = run.role("reference")
    lora = training is not None and training.tuning is Tuning.LORA
    twice = reference is not None and reference.model == run.trained.model and not reference.shares
    if run.method is Method.RLT and lora and twice:
        yield _Try(what="no --reference: the teacher without its adapters is one", settings={"reference": "none"})
    if run.method in (Method.GRPO, Method.DPO, Method.SFT) and not stack.fused_lm_head and "trl" in stack.named:
        yield _Try(what=f"trl {NEWER_TRL}: no full logits", settings={"stack": {"trl": NEWER_TRL}})
    if rollout is not None and rollout.backend is RolloutBackend.HF:
        yield _Try(what="vLLM on another card makes the completions", settings={"rollout": "vllm-server"})
    if (flat.per_device_batch_size or 1) > 1 and flat.batch_size is None:
        yield _Try(what="one row a forward", settings={"per_device_batch_size": 1})


def _precisions(answer: Answer) -> Iterator[_Try]:
    """Fewer bits, frozen roles first."""
    roles = answer.setting.run.roles
    for role in (*roles[1:], roles[0]):
        if role.shares or role.load.quantization is Quantization.STORED:
            continue
        key = precision_key(role.name)
        if role.load.quantization is Quantization.NONE:
            yield _Try(what=f"the {role.name} in 8-bit", settings={key: "int8"})
        if role.load.quantization in (Quantization.NONE, Quantization.INT8):
            yield _Try(what=f"the {role.name} in 4-bit", settings={key: "nf4", "double_quant": True})
