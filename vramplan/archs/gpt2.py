"""gpt2: GPT2Config and GPT2LMHeadModel of transformers 5.23."""

from __future__ import annotations

from vramplan.archs._config import ConfigReader
from vramplan.archs._gpt import read_gpt
from vramplan.core.model import ModelShape, ModuleKind


def read(config: ConfigReader) -> ModelShape:
    """The model that a gpt2 config describes: its matrices are Conv1D, stored (in, out)."""
    return read_gpt(config, kind=ModuleKind.CONV1D, one_key_value_head=False, activation="gelu_new", masks=False)
