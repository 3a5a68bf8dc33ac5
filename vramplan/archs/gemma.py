"""gemma: GemmaConfig and GemmaForCausalLM of transformers 5.23."""

from __future__ import annotations

from vramplan.archs._attention import read_heads, separate_attention
from vramplan.archs._config import ConfigReader
from vramplan.archs._decoder import llama_like, norms
from vramplan.archs._mlp import gated_mlp
from vramplan.core.model import LayerShape, ModelShape, NormKind


def read(config: ConfigReader) -> ModelShape:
    """The model that a gemma config describes: llama's blocks, gemma's norms, a scaled embedding."""
    heads = read_heads(config, absent_key_value_heads=16, absent_head_dim=256)
    bias = config.boolean("attention_bias", absent=False)
    layer = LayerShape(
        attention=separate_attention(config, heads, bias=bias, output_bias=bias),
        mlp=gated_mlp(
            heads.hidden_size,
            config.required_int("intermediate_size"),
            activation=_activation(config),
        ),
        norms=norms(heads.hidden_size, kind=NormKind.RMS_GEMMA),
    )
    return llama_like(
        config,
        layers=(layer,) * config.layers("num_hidden_layers"),
        hidden_size=heads.hidden_size,
        max_position_embeddings=8192,
        tied_by_default=True,
        norm=NormKind.RMS_GEMMA,
        embedding_multiplier=True,
    )


def _activation(config: ConfigReader) -> str:
    """GemmaConfig reads `gelu`, which the first releases said, as the tanh approximation that they meant."""
    named = config.text("hidden_act", absent="gelu_pytorch_tanh")
    return "gelu_pytorch_tanh" if named == "gelu" else named
