"""Families: runs that differ in their sizes only, with the bytes that stay whatever the sizes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vramplan.core.device import Gpu
from vramplan.core.model import ModelShape
from vramplan.core.stack import Stack
from vramplan.errors import UsageError
from vramplan.formula.setting import Setting
from vramplan.planner.preference import Preference
from vramplan.planner.resolve import resolve
from vramplan.planner.space import Space, precision_key
from vramplan.runfiles.flat import FlatRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What every run of a search shares."""

    models: Mapping[str, ModelShape]
    stack: Stack
    gpu: Gpu

    def setting(self, flat: FlatRun) -> Setting:
        """A run, resolved.

        Raises:
            UsageError: no trainer takes it.
        """
        run = resolve(flat, self.models, self.stack).run
        return Setting(run=run, models=self.models, stack=self.stack, gpu=self.gpu)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Runs that differ in rows, tokens and rank.

    Args:
        settings: the flat keys that make the family.
        setting: one of its runs, the smallest.
        accumulates: whether gradients are alive through the next forward.
        score: what its members have in common of their score.
    """

    settings: Mapping[str, Any]
    setting: Setting
    accumulates: bool
    score: float

    @property
    def trained_precision(self) -> str:
        """How the trained model's linear layers are stored."""
        return self.setting.run.trained.load.quantization.value


def families(space: Space, ground: Ground, preference: Preference) -> list[Family]:
    """Every family of a space that can exist.

    They come in an order in which the first few show each role in each of its precisions.

    Raises:
        UsageError: none can; the first one's reason.
    """
    found = []
    refused: UsageError | None = None
    for settings in _products(space):
        tuning, trained = settings.get("tuning"), next(iter(space.precisions))
        precisions = settings.pop("precisions")
        if settings.get("rollout") == "vllm-colocate" and precisions[trained] == "int8":
            # TRL generation/vllm_generation.py 341-348
            refused = refused or UsageError(
                "VP007: vLLM does not quantise to 8 bits in flight", hint="use 4-bit, --rollout hf or vllm-server"
            )
            continue
        accumulates = settings.pop("accumulates")
        flat = space.base.merged(FlatRun(**settings | _precision_keys(precisions, space)))
        try:
            setting = ground.setting(flat.merged(_smallest(space, accumulates=accumulates)))
        except UsageError as error:
            refused = refused or error
            continue
        score = preference.loading(precisions, trained)
        score += preference.training(
            tuning=tuning,
            checkpointing=settings.get("gradient_checkpointing"),
            attention=settings["attn_implementation"],
        )
        score += preference.placing(
            num_offloaded=len(settings["offload"]), rollout=settings.get("rollout"), sleeps=settings["vllm_sleep"]
        )
        given = {key: value for key, value in settings.items() if value is not None}
        found.append(
            Family(
                settings=given | _precision_keys(precisions, space),
                setting=setting,
                accumulates=accumulates,
                score=score,
            )
        )
    if not found and refused is not None:
        raise refused
    return found


def _products(space: Space) -> Iterator[dict[str, Any]]:
    roles = list(space.precisions)
    trained = itertools.product(
        space.precisions[roles[0]],
        space.tunings or (None,),
        space.checkpointing or (None,),
        space.attention,
        _accumulates(space),
    )
    others = list(itertools.product(*(space.precisions[role] for role in roles[1:])))
    rest = list(itertools.product(space.offloads, space.rollouts or (None,), space.sleeps or (False,)))
    structures = list(trained)
    for turn, place in itertools.product(range(len(others)), range(len(structures))):
        precision, tuning, checkpointing, attention, accumulates = structures[place]
        other = others[(place + turn) % len(others)]
        for offload, rollout, sleeps in rest:
            if sleeps and rollout != "vllm-colocate":
                continue
            yield {
                "precisions": dict(zip(roles, (precision, *other), strict=True)),
                "tuning": tuning,
                "gradient_checkpointing": checkpointing,
                "attn_implementation": attention,
                "accumulates": accumulates,
                "offload": offload,
                "rollout": rollout,
                "vllm_sleep": sleeps,
            }


def _accumulates(space: Space) -> tuple[bool, ...]:
    if not space.accumulation:
        return (False,)
    if space.batch_size is not None:
        return (False, True)
    return tuple(sorted({steps > 1 for steps in space.accumulation}))


def _precision_keys(precisions: Mapping[str, str], space: Space) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for role, precision in precisions.items():
        if precision != "stored":
            keys[precision_key(role)] = precision
    four_bit = any(precision in ("nf4", "fp4") for precision in precisions.values())
    if four_bit and space.base.double_quant is None:
        keys["double_quant"] = True
    return keys


def _smallest(space: Space, *, accumulates: bool) -> FlatRun:
    sizes: dict[str, Any] = {"per_device_batch_size": 1}
    if space.method.trains:
        sizes["gradient_accumulation_steps"] = 2 if accumulates else 1
    if space.method.rolls_out:
        sizes["generations"] = 2
    return FlatRun(**sizes | length_keys(*space.lengths[0]))


def length_keys(prompt: int, completion: int) -> dict[str, Any]:
    """The flat keys of a row's tokens."""
    if not completion:
        return {"max_seq_length": prompt}
    if prompt == completion:
        return {"context": prompt}
    return {"max_prompt_length": prompt, "max_completion_length": completion}
