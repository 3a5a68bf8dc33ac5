"""Subject: one run's settings with everything that a rule may ask about them."""

from __future__ import annotations

from dataclasses import dataclass

from vramplan.core.device import Gpu
from vramplan.core.report import MemoryReport
from vramplan.core.stack import Stack
from vramplan.formula.estimate import Estimate
from vramplan.formula.setting import Setting
from vramplan.planner.check.spellings import spellings
from vramplan.runfiles.flat import FlatRun
from vramplan.runfiles.runfile import RunFile, Tool, Written

LAUNCHERS = frozenset({Tool.ACCELERATE, Tool.DEEPSPEED})
"""Tools whose files say where a run is placed, and nothing of what it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimated:
    """The run as an estimate has it, where its model is known.

    Args:
        setting: what the formulas start from.
        result: phases.
        report: with the estimate's own warnings and, where a card is given, its verdict.
    """

    setting: Setting
    result: Estimate
    report: MemoryReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What the rules look at.

    Args:
        file: the settings as they are written.
        beside: the launcher's files that were named with it.
        flat: the settings as flags have them, with the launcher's placement and the command line's on top.
        stack: what the versions do.
        gpu: the card, where one was named.
        estimated: the estimate, where the model is known and the run can exist.
        refused: the sentence and the hint with which the estimate refuses the run, if it does.
        cards: names and bytes of the cards that a size may mean: the one that was named, else every one known.
    """

    file: RunFile
    beside: tuple[RunFile, ...] = ()
    flat: FlatRun
    stack: Stack
    gpu: Gpu | None = None
    estimated: Estimated | None = None
    refused: tuple[str, str | None] | None = None
    cards: tuple[tuple[str, int], ...] = ()

    def refused_by(self, rule: str) -> tuple[str, str] | None:
        """Sentence and hint, without the id before it, where the estimate refuses the run by this rule."""
        if self.refused is None or not self.refused[0].startswith(f"{rule}: "):
            return None
        return self.refused[0].removeprefix(f"{rule}: "), self.refused[1] or ""

    @property
    def gpu_bytes(self) -> int | None:
        """The memory that the run may use: the budget, else the card's; None where neither was named."""
        if self.gpu is None:
            return None
        return self.flat.gpu_mem or self.gpu.total_bytes

    @property
    def is_rlt(self) -> bool:
        """Whether RLT's trainer reads the file."""
        return self.file.tool is Tool.RLT

    @property
    def is_launcher(self) -> bool:
        """Whether the file only says where a run is placed."""
        return self.file.tool in LAUNCHERS

    @property
    def world_size(self) -> int:
        """Training processes: what a file or a flag says, else one, as without a launcher."""
        return self.flat.num_gpus or 1

    @property
    def processes(self) -> str:
        """`1 process`, `4 processes`."""
        return "1 process" if self.world_size == 1 else f"{self.world_size} processes"

    @property
    def is_zero(self) -> bool:
        """Whether DeepSpeed holds the weights."""
        return (self.flat.sharding or "").startswith("zero")

    @property
    def is_lora(self) -> bool:
        """Whether adapters train."""
        return self.flat.tuning == "lora"

    @property
    def is_full(self) -> bool:
        """Whether all weights train: said so, or the default of a trainer that is told nothing."""
        return self.trains and not self.is_lora

    @property
    def trains(self) -> bool:
        """Whether the run trains."""
        return self.flat.method in ("sft", "dpo", "grpo", "rlt")

    @property
    def rolls_out(self) -> bool:
        """Whether the trainer generates completions."""
        return self.flat.method in ("grpo", "rlt")

    @property
    def colocates(self) -> bool:
        """Whether vLLM runs on the training card."""
        return self.rolls_out and self.flat.rollout == "vllm-colocate"

    def written(self, *keys: str) -> Written | None:
        """The first of these dotted keys that is written with a value."""
        for key in keys:
            found = self.file.get(key)
            if found is not None and found.value is not None:
                return found
        return None

    def place_of(self, flat_key: str) -> Written | None:
        """Where a flat setting is written, in the run's file or the launcher's."""
        keys = spellings(flat_key)
        found = self.written(*keys)
        if found is not None:
            return found
        for other in self.beside:
            for key in keys:
                one = other.get(key)
                if one is not None and one.value is not None:
                    return one
        return None

    def count(self, *keys: str) -> int | None:
        """A whole number of at least 1 that is written under one of these keys."""
        found = self.written(*keys)
        if found is None or isinstance(found.value, bool) or not isinstance(found.value, int) or found.value < 1:
            return None
        return found.value

    def is_true(self, *keys: str) -> Written | None:
        """The setting, where it is written and true."""
        found = self.written(*keys)
        return found if found is not None and found.value is True else None

    @property
    def accumulation(self) -> int | None:
        """Accumulation steps: given, or what RLT's train.py derives from the batch (51-61); None where it cannot."""
        flat = self.flat
        if flat.gradient_accumulation_steps is not None:
            return flat.gradient_accumulation_steps
        if flat.batch_size is None:
            return None if self.is_rlt else 1
        step = (flat.per_device_batch_size or 1) * self.world_size
        return None if flat.batch_size % step else flat.batch_size // step

    @property
    def prompt_and_completion(self) -> int | None:
        """Tokens of the longest row, where both lengths are given."""
        prompt = self.flat.max_prompt_length or self.flat.context
        completion = self.flat.max_completion_length or self.flat.context
        return None if prompt is None or completion is None else prompt + completion
