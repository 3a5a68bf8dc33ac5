"""mixtral: MixtralConfig and MixtralForCausalLM of transformers 5.23."""

from __future__ import annotations

from vramplan.archs._attention import read_heads, separate_attention
from vramplan.archs._config import ConfigReader
from vramplan.archs._decoder import llama_like, norms
from vramplan.archs._moe import router
from vramplan.core.model import LayerShape, MixtureOfExperts, ModelShape


def read(config: ConfigReader) -> ModelShape:
    """The model that a mixtral config describes: every layer has experts of `intermediate_size`."""
    heads = read_heads(config, absent_key_value_heads=8)
    num_experts = config.required_int("num_local_experts", "num_experts")
    layer = LayerShape(
        attention=separate_attention(config, heads, window=config.optional_int("sliding_window")),
        mlp=MixtureOfExperts(
            router=router(heads.hidden_size, num_experts),
            num_experts=num_experts,
            num_experts_per_tok=config.integer("num_experts_per_tok", absent=2),
            hidden_size=heads.hidden_size,
            intermediate_size=config.required_int("intermediate_size"),
            name="mlp.experts",
            checkpoint_names=("w1", "w3", "w2"),
            activation=config.text("hidden_act", absent="silu"),
            linear_before_v5=True,
        ),
        norms=norms(heads.hidden_size),
    )
    return llama_like(
        config,
        layers=(layer,) * config.layers("num_hidden_layers"),
        hidden_size=heads.hidden_size,
        max_position_embeddings=131_072,
    )
