"""qwen2: Qwen2Config and Qwen2ForCausalLM of transformers 5.23."""

from __future__ import annotations

from vramplan.archs._attention import read_heads, separate_attention
from vramplan.archs._config import ConfigReader
from vramplan.archs._decoder import llama_like, norms
from vramplan.archs._mlp import gated_mlp
from vramplan.archs._qwen import qwen_windows
from vramplan.core.model import LayerShape, ModelShape


def read(config: ConfigReader) -> ModelShape:
    """The model that a qwen2 config describes: queries, keys and values always have biases, outputs never."""
    heads = read_heads(config, absent_key_value_heads=32)
    mlp = gated_mlp(
        heads.hidden_size,
        config.required_int("intermediate_size"),
        activation=config.text("hidden_act", absent="silu"),
    )
    windows = qwen_windows(config, config.layers("num_hidden_layers"))
    layers = {
        window: LayerShape(
            attention=separate_attention(config, heads, bias=True, window=window),
            mlp=mlp,
            norms=norms(heads.hidden_size),
        )
        for window in set(windows)
    }
    return llama_like(
        config,
        layers=tuple(layers[window] for window in windows),
        hidden_size=heads.hidden_size,
        max_position_embeddings=32_768,
    )
