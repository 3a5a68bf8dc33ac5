"""starcoder2: Starcoder2Config and Starcoder2ForCausalLM of transformers 5.23."""

from __future__ import annotations

from vramplan.archs._attention import read_heads, separate_attention
from vramplan.archs._config import ConfigReader
from vramplan.archs._decoder import llama_like, norms
from vramplan.archs._mlp import plain_mlp
from vramplan.core.model import LayerShape, ModelShape, NormKind


def read(config: ConfigReader) -> ModelShape:
    """The model that a starcoder2 config describes: grouped queries, layer norms, biases everywhere."""
    heads = read_heads(config, absent_key_value_heads=2)
    bias = config.boolean("use_bias", absent=True)
    layer = LayerShape(
        attention=separate_attention(
            config, heads, bias=bias, output_bias=bias, window=config.optional_int("sliding_window")
        ),
        mlp=plain_mlp(
            heads.hidden_size,
            config.required_int("intermediate_size"),
            names=("mlp.c_fc", "mlp.c_proj"),
            activation=config.text("hidden_act", absent="gelu_pytorch_tanh"),
            bias=bias,
        ),
        norms=norms(heads.hidden_size, kind=NormKind.LAYER, bias=True),
        dropout=config.drops("residual_dropout"),
    )
    return llama_like(
        config,
        layers=(layer,) * config.layers("num_hidden_layers"),
        hidden_size=heads.hidden_size,
        max_position_embeddings=4096,
        tied_by_default=True,
        norm=NormKind.LAYER,
        embedding_dropout=config.drops("embedding_dropout"),
    )
