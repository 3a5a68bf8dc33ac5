"""Which of two settings that fit is better: a score in doublings, whose weights are chosen, not measured.

A doubling of the context counts 1. Everything else is said in the same unit, so that each weight can be read as "worth
that many doublings of the context". `--prefer` multiplies one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log2, sqrt

PREFERENCES = ("context", "batch", "generations", "quality")
PREFERRED = 3.0
"""What `--prefer` multiplies by; quality, whose steps are few, by twice that."""

CONTEXT, BATCH, GENERATIONS = 1.0, 0.5, 0.5
SHORT_ROW = 2048
"""Tokens of a row below which each halving counts double: little can be reasoned in so few."""
ENOUGH_GENERATIONS = 16
"""Completions a prompt beyond which more count for little: the documents' conservative run has 16."""
ENOUGH_BATCH = 64
"""Completions an update beyond which more count for little: the documents' conservative run has 64."""
BEYOND_ENOUGH = 0.1
"""What a doubling beyond that still counts, of what it counted before."""
EFFECTIVE_BATCH = 0.5
TOO_LARGE_BATCH = -0.1
"""A doubling of the update beyond enough: it costs no memory, and time."""
TRAINED_PRECISION: Mapping[str, float] = {"none": 0.0, "stored": 0.0, "int8": -0.75, "nf4": -1.0, "fp4": -1.1}
"""What the trained model's precision costs: 8-bit is slower and keeps its inputs, 4-bit is further from the weights."""
FROZEN_SHARE = 0.4
"""What a frozen role's precision costs, of the trained one's."""
LORA = -0.5
RANK = 0.05
CHECKPOINTING = -0.25
"""A third more compute."""
OFFLOADED = -0.3
"""Each role that has to travel over the bus."""
SLEEPS = -0.2
ENGINE = 0.3
"""vLLM generates many times faster than transformers."""
FLASH = -0.01
"""flash-attn is a package to install; sdpa has the same kernel."""
EAGER = -0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """Weights of a search.

    Args:
        prefer: which of `PREFERENCES` counts more, or None.
    """

    prefer: str | None = None

    def _times(self, name: str) -> float:
        if self.prefer != name:
            return 1.0
        return 2 * PREFERRED if name == "quality" else PREFERRED

    def lengths(self, prompt: int, completion: int) -> float:
        """Of tokens a row: a prompt and a completion of which one is short are worth less than two even ones."""
        even = 2 * sqrt(prompt * completion) if completion else prompt
        short = 2 * min(prompt, completion) if completion else prompt
        return CONTEXT * (self._times("context") * log2(even) + min(log2(short / SHORT_ROW), 0.0))

    def batches(self, per_device: int, generations: int, update: int | None) -> float:
        """Of rows of a forward, completions a prompt, and completions an update (None where nothing trains)."""
        score = BATCH * self._times("batch") * log2(per_device)
        score += GENERATIONS * self._times("generations") * _up_to(generations, ENOUGH_GENERATIONS)
        if update is None:
            return score
        return (
            score
            + EFFECTIVE_BATCH * log2(min(update, ENOUGH_BATCH))
            + TOO_LARGE_BATCH * log2(max(update / ENOUGH_BATCH, 1.0))
        )

    def rank(self, rank: int) -> float:
        """Of a LoRA rank."""
        return RANK * self._times("quality") * log2(rank)

    def loading(self, precisions: Mapping[str, str], trained: str) -> float:
        """Of the roles' precisions."""
        score = 0.0
        for role, precision in precisions.items():
            score += TRAINED_PRECISION[precision] * (1.0 if role == trained else FROZEN_SHARE)
        return self._times("quality") * score

    def training(self, *, tuning: str | None, checkpointing: bool | None, attention: str) -> float:
        """Of how it trains."""
        score = self._times("quality") * LORA if tuning == "lora" else 0.0
        score += CHECKPOINTING if checkpointing else 0.0
        return score + {"flash_attention_2": FLASH, "eager": EAGER}.get(attention, 0.0)

    def placing(self, *, num_offloaded: int, rollout: str | None, sleeps: bool) -> float:
        """Of what rests in host memory, and of the rollout's engine."""
        score = OFFLOADED * num_offloaded
        score += ENGINE if rollout == "vllm-colocate" else 0.0
        return score + (SLEEPS if sleeps else 0.0)


def _up_to(number: int, enough: int) -> float:
    """Doublings, few of those beyond `enough`."""
    if number <= enough:
        return log2(number)
    return log2(enough) + BEYOND_ENOUGH * log2(number / enough)
