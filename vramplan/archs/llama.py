"""llama: LlamaConfig and LlamaForCausalLM of transformers 5.23."""

from __future__ import annotations

from vramplan.archs._attention import read_heads, separate_attention
from vramplan.archs._config import ConfigReader
from vramplan.archs._decoder import llama_like, norms
from vramplan.archs._mlp import gated_mlp
from vramplan.core.model import LayerShape, ModelShape


def read(config: ConfigReader) -> ModelShape:
    """The model that a llama config describes: Llama 1 to 3, TinyLlama, SmolLM2, Yi, DeepSeek-R1-Distill-Llama, …."""
    heads = read_heads(config)
    bias = config.boolean("attention_bias", absent=False)
    layer = LayerShape(
        attention=separate_attention(config, heads, bias=bias, output_bias=bias),
        mlp=gated_mlp(
            heads.hidden_size,
            config.required_int("intermediate_size"),
            activation=config.text("hidden_act", absent="silu"),
            bias=config.boolean("mlp_bias", absent=False),
        ),
        norms=norms(heads.hidden_size),
    )
    return llama_like(
        config,
        layers=(layer,) * config.layers("num_hidden_layers"),
        hidden_size=heads.hidden_size,
        max_position_embeddings=2048,
    )
