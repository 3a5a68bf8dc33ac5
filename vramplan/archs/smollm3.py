"""smollm3: SmolLM3Config and SmolLM3ForCausalLM of transformers 5.23."""

from __future__ import annotations

from vramplan.archs._attention import read_heads, separate_attention
from vramplan.archs._config import ConfigReader
from vramplan.archs._decoder import llama_like, norms
from vramplan.archs._mlp import gated_mlp
from vramplan.archs._windows import layer_windows
from vramplan.core.model import LayerShape, ModelShape


def read(config: ConfigReader) -> ModelShape:
    """The model that a smollm3 config describes: every fourth layer without positions; those may slide."""
    heads = read_heads(config, absent_key_value_heads=4)
    bias = config.boolean("attention_bias", absent=False)
    mlp = gated_mlp(
        heads.hidden_size,
        config.required_int("intermediate_size"),
        activation=config.text("hidden_act", absent="silu"),
        bias=config.boolean("mlp_bias", absent=False),
    )
    rotates = _rotates(config, config.layers("num_hidden_layers"))
    window = config.optional_int("sliding_window") if config.boolean("use_sliding_window", absent=False) else None
    windows = layer_windows(config, num_layers=len(rotates), window=window, slides=lambda index: not rotates[index])
    kinds = tuple(zip(rotates, windows, strict=True))
    layers = {
        (rotated, each): LayerShape(
            attention=separate_attention(
                config,
                heads,
                bias=bias,
                output_bias=bias,
                window=each,
                rotary_dim=heads.head_dim if rotated else 0,
            ),
            mlp=mlp,
            norms=norms(heads.hidden_size),
        )
        for rotated, each in set(kinds)
    }
    return llama_like(
        config,
        layers=tuple(layers[kind] for kind in kinds),
        hidden_size=heads.hidden_size,
        max_position_embeddings=32_768,
        tied_by_default=True,
    )


def _rotates(config: ConfigReader, num_layers: int) -> tuple[bool, ...]:
    """Whether each layer rotates; `no_rope_layers`, in spite of its name, is 1 for those that do."""
    listed = config.integers("no_rope_layers")
    if listed:
        if len(listed) != num_layers:
            raise config.error(f"`no_rope_layers` names {len(listed)} layers of {num_layers}")
        return tuple(bool(flag) for flag in listed)
    interval = config.integer("no_rope_layer_interval", absent=4)
    return tuple((index + 1) % interval != 0 for index in range(num_layers))
