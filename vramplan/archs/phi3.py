"""phi3: Phi3Config and Phi3ForCausalLM of transformers 5.23."""

from __future__ import annotations

from vramplan.archs._attention import fused_attention, read_heads
from vramplan.archs._config import ConfigReader
from vramplan.archs._decoder import llama_like, norms
from vramplan.archs._rotary import partial_rotary_dim
from vramplan.core.model import LayerShape, Linear, Mlp, ModelShape


def read(config: ConfigReader) -> ModelShape:
    """The model that a phi3 config describes: Phi-3, Phi-3.5-mini, Phi-4-mini; gate and up in one projection."""
    heads = read_heads(config)
    hidden_size, width = heads.hidden_size, config.required_int("intermediate_size")
    layer = LayerShape(
        attention=fused_attention(
            heads,
            names=("self_attn.qkv_proj", "self_attn.o_proj"),
            bias=False,
            rotary_dim=partial_rotary_dim(config, heads.head_dim, absent=1.0),
            window=config.optional_int("sliding_window"),
            dropout=config.drops("attention_dropout"),
        ),
        mlp=Mlp(
            intermediate_size=width,
            up=Linear(name="mlp.gate_up_proj", in_features=hidden_size, out_features=2 * width),
            down=Linear(name="mlp.down_proj", in_features=width, out_features=hidden_size),
            fused_gate_up=True,
            activation=config.text("hidden_act", absent="silu"),
        ),
        norms=norms(hidden_size),
        dropout=config.drops("resid_pdrop"),
    )
    return llama_like(
        config,
        layers=(layer,) * config.layers("num_hidden_layers"),
        hidden_size=hidden_size,
        max_position_embeddings=4096,
    )
