"""gpt_oss: GptOssConfig and GptOssForCausalLM of transformers 5.23."""

from __future__ import annotations

from vramplan.archs._attention import read_heads, separate_attention
from vramplan.archs._config import ConfigReader
from vramplan.archs._decoder import llama_like, norms
from vramplan.archs._moe import router
from vramplan.archs._windows import layer_windows
from vramplan.core.model import LayerShape, MixtureOfExperts, ModelShape, NormKind


def read(config: ConfigReader) -> ModelShape:
    """The model that a gpt_oss config describes: sinks, biases everywhere, every other layer slides."""
    heads = read_heads(config, absent_key_value_heads=8, absent_head_dim=64)
    bias = config.boolean("attention_bias", absent=True)
    num_experts = config.required_int("num_local_experts", "num_experts")
    experts = MixtureOfExperts(
        router=router(heads.hidden_size, num_experts, name="mlp.router", bias=True),
        num_experts=num_experts,
        num_experts_per_tok=config.integer("num_experts_per_tok", absent=4),
        hidden_size=heads.hidden_size,
        intermediate_size=config.required_int("intermediate_size"),
        name="mlp.experts",
        expert_bias=True,
        checkpoint_names=None,
        activation=config.text("hidden_act", absent="silu"),
        input_major=True,
    )
    windows = layer_windows(
        config,
        num_layers=config.layers("num_hidden_layers"),
        window=config.optional_int("sliding_window", absent=128),
        slides=lambda index: index % 2 == 0,
    )
    layers = {
        window: LayerShape(
            attention=separate_attention(
                config, heads, bias=bias, output_bias=bias, window=window, num_sinks=heads.num_attention_heads
            ),
            mlp=experts,
            norms=norms(heads.hidden_size, kind=NormKind.RMS_GPT_OSS),
        )
        for window in set(windows)
    }
    return llama_like(
        config,
        layers=tuple(layers[window] for window in windows),
        hidden_size=heads.hidden_size,
        max_position_embeddings=131_072,
        norm=NormKind.RMS_GPT_OSS,
    )
