"""deepseek_v2: DeepseekV2Config and DeepseekV2ForCausalLM of transformers 5.23."""

from __future__ import annotations

from vramplan.archs._config import ConfigReader
from vramplan.archs._decoder import llama_like
from vramplan.archs._deepseek import deepseek_layers
from vramplan.archs._latent import latent_attention
from vramplan.core.model import ModelShape


def read(config: ConfigReader) -> ModelShape:
    """The model that a deepseek_v2 config describes: V2, V2-Lite, Coder-V2."""
    hidden_size = config.required_int("hidden_size")
    layers = deepseek_layers(
        config,
        hidden_size=hidden_size,
        attention=latent_attention(config, hidden_size),
        num_experts_per_tok=config.required_int("num_experts_per_tok"),
        num_shared_experts=config.integer("n_shared_experts", absent=2),
        absent_dense_layers=0,
        mlp_bias=config.boolean("mlp_bias", absent=False),
    )
    return llama_like(config, layers=layers, hidden_size=hidden_size, max_position_embeddings=2048)
