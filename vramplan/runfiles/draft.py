"""A file being written: its settings, and which of a run's it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from vramplan import __version__
from vramplan.runfiles.flat import FlatRun
from vramplan.runfiles.flat_keys import KINDS
from vramplan.runfiles.yaml_tree import yaml_text

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_NO_SETTING = frozenset({"run"})
"""The name of a profile whose settings are here already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """The text of a file.

    Args:
        text: the file.
        left_out: the run's settings that this format has no word for, by their flat keys.
    """

    text: str
    left_out: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class Draft:
    """Settings of a file on their way to its text.

    Args:
        flat: the run to write.
        values: the file's settings.
    """

    flat: FlatRun
    values: dict[str, object] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)
    _left: set[str] = field(default_factory=set)

    def say(self, *keys: str) -> None:
        """Count flat keys as said."""
        self._said.update(keys)

    def leave(self, key: str) -> None:
        """Count a flat key as left out, though it is given in other words (`context` gives both lengths)."""
        self._left.add(key)

    def put(self, name: str, key: str) -> None:
        """Write one flat setting under the file's name for it, where it is given."""
        value = getattr(self.flat, key)
        if value is not None:
            self.values[name] = list(value) if isinstance(value, tuple) else value
            self.say(key)

    def set(self, name: str, value: object, *keys: str) -> None:
        """Write a value that says these flat keys."""
        self.values[name] = value
        self.say(*keys)

    @property
    def left_out(self) -> tuple[str, ...]:
        """The given settings that nothing said, in the order of flat keys."""
        unsaid = (set(self.flat.given()) - self._said - _NO_SETTING) | self._left
        return tuple(key for key in KINDS if key in unsaid)

    def yaml(self, comments: Sequence[str]) -> Text:
        """The text as YAML, under the comments and a line on what is left out."""
        lines = [f"# Written by vramplan {__version__}.", *(f"# {line}" for line in comments)]
        if self.left_out:
            lines.append(f"# vramplan: this format has no word for {', '.join(self.left_out)}")
        return Text(text="\n".join(lines) + "\n" + yaml_text(self.values), left_out=self.left_out)


def accumulation_steps(flat: FlatRun) -> int | None:
    """Micro-batches of an update, from the run's own or from its two batch sizes; None where they do not say."""
    if flat.gradient_accumulation_steps is not None:
        return flat.gradient_accumulation_steps
    if flat.batch_size is None or flat.per_device_batch_size is None:
        return None
    steps, rest = divmod(flat.batch_size, flat.per_device_batch_size * (flat.num_gpus or 1))
    return None if rest else steps


def trains_adapters(flat: FlatRun) -> bool | None:
    """Whether adapters train; None where the run leaves it open, and nothing asks for them."""
    if flat.tuning is not None:
        return flat.tuning == "lora"
    quantised = (flat.teacher_quantization or flat.quantization or "none") != "none"
    return True if quantised or flat.lora_r is not None or flat.lora_target_modules else None


def row_length(flat: FlatRun) -> int | None:
    """Tokens of a row of sft or dpo, from whichever lengths the run gives."""
    if flat.max_seq_length is not None:
        return flat.max_seq_length
    if flat.max_prompt_length is None and flat.max_completion_length is None:
        return flat.context
    lengths = (flat.max_prompt_length or flat.context, flat.max_completion_length or flat.context)
    return None if None in lengths else sum(length or 0 for length in lengths)
