"""deepseek_v3: DeepseekV3Config and DeepseekV3ForCausalLM of transformers 5.23."""

from __future__ import annotations

from vramplan.archs._config import ConfigReader
from vramplan.archs._decoder import llama_like
from vramplan.archs._deepseek import deepseek_layers
from vramplan.archs._latent import latent_attention
from vramplan.core.model import MixtureOfExperts, ModelShape

_FP32_BYTES = 4


def read(config: ConfigReader) -> ModelShape:
    """The model that a deepseek_v3 config describes: V3, R1.

    The multi-token-prediction layers in the checkpoint (`num_nextn_predict_layers`) are not part of it.
    """
    hidden_size = config.required_int("hidden_size")
    layers = deepseek_layers(
        config,
        hidden_size=hidden_size,
        attention=latent_attention(config, hidden_size, absent_key_value_heads=128),
        num_experts_per_tok=config.integer("num_experts_per_tok", absent=8),
        num_shared_experts=config.integer("n_shared_experts", absent=1),
        absent_dense_layers=3,
    )
    # e_score_correction_bias, one for each routed expert, kept in fp32 (modeling_deepseek_v3.py:131, :550)
    corrections = sum(layer.mlp.num_experts for layer in layers if isinstance(layer.mlp, MixtureOfExperts))
    return llama_like(
        config,
        layers=layers,
        hidden_size=hidden_size,
        max_position_embeddings=4096,
        buffer_bytes=corrections * _FP32_BYTES,
    )
