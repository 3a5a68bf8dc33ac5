"""qwen3_moe: Qwen3MoeConfig and Qwen3MoeForCausalLM of transformers 5.23."""

from __future__ import annotations

from vramplan.archs._attention import read_heads, separate_attention
from vramplan.archs._config import ConfigReader
from vramplan.archs._decoder import llama_like, norms
from vramplan.archs._mlp import gated_mlp
from vramplan.archs._moe import router
from vramplan.archs._qwen import qwen_window
from vramplan.core.model import LayerShape, MixtureOfExperts, Mlp, ModelShape, NormKind


def read(config: ConfigReader) -> ModelShape:
    """The model that a qwen3_moe config describes; the window, unlike qwen3's, holds for every layer."""
    heads = read_heads(config, absent_key_value_heads=4)
    bias = config.boolean("attention_bias", absent=False)
    attention = separate_attention(
        config, heads, bias=bias, output_bias=bias, window=qwen_window(config), head_norm=NormKind.RMS
    )
    activation = config.text("hidden_act", absent="silu")
    num_experts = config.required_int("num_experts", "num_local_experts")
    sparse = MixtureOfExperts(
        router=router(heads.hidden_size, num_experts),
        num_experts=num_experts,
        num_experts_per_tok=config.integer("num_experts_per_tok", absent=8),
        hidden_size=heads.hidden_size,
        intermediate_size=config.required_int("moe_intermediate_size"),
        name="mlp.experts",
        activation=activation,
        linear_before_v5=True,
    )
    num_layers = config.layers("num_hidden_layers")
    sparse_layers = _sparse_layers(config, num_layers)

    def layer(mlp: Mlp | MixtureOfExperts) -> LayerShape:
        return LayerShape(attention=attention, mlp=mlp, norms=norms(heads.hidden_size))

    layers = {True: layer(sparse)}
    if len(sparse_layers) < num_layers:
        width = config.required_int("intermediate_size")
        layers[False] = layer(gated_mlp(heads.hidden_size, width, activation=activation))
    return llama_like(
        config,
        layers=tuple(layers[index in sparse_layers] for index in range(num_layers)),
        hidden_size=heads.hidden_size,
        max_position_embeddings=32_768,
    )


def _sparse_layers(config: ConfigReader, num_layers: int) -> set[int]:
    """Every `decoder_sparse_step`-th layer has experts, save those in `mlp_only_layers`."""
    step = config.integer("decoder_sparse_step", absent=1)
    return set(range(step - 1, num_layers, step)) - set(config.integers("mlp_only_layers"))
