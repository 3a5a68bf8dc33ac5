"""mistral: MistralConfig and MistralForCausalLM of transformers 5.23."""

from __future__ import annotations

from vramplan.archs._attention import read_heads, separate_attention
from vramplan.archs._config import ConfigReader
from vramplan.archs._decoder import llama_like, norms
from vramplan.archs._mlp import gated_mlp
from vramplan.core.model import LayerShape, ModelShape


def read(config: ConfigReader) -> ModelShape:
    """The model that a mistral config describes; one sliding window, where there is one, holds for every layer."""
    heads = read_heads(config, absent_key_value_heads=8)
    layer = LayerShape(
        attention=separate_attention(config, heads, window=config.optional_int("sliding_window", absent=4096)),
        mlp=gated_mlp(
            heads.hidden_size,
            config.required_int("intermediate_size"),
            activation=config.text("hidden_act", absent="silu"),
        ),
        norms=norms(heads.hidden_size),
    )
    return llama_like(
        config,
        layers=(layer,) * config.layers("num_hidden_layers"),
        hidden_size=heads.hidden_size,
        max_position_embeddings=131_072,
    )
