"""gpt_bigcode: GPTBigCodeConfig and GPTBigCodeForCausalLM of transformers 5.23."""

from __future__ import annotations

from vramplan.archs._config import ConfigReader
from vramplan.archs._gpt import read_gpt
from vramplan.core.model import ModelShape, ModuleKind


def read(config: ConfigReader) -> ModelShape:
    """The model that a gpt_bigcode config describes: santacoder, starcoder; its causal mask is a buffer (:382)."""
    return read_gpt(
        config,
        kind=ModuleKind.LINEAR,
        one_key_value_head=config.boolean("multi_query", absent=True),
        activation="gelu_pytorch_tanh",
        masks=True,
    )
