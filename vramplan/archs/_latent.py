"""Multi-head latent attention, as DeepSeek has it (modeling_deepseek_v3.py, transformers 5.23)."""

from __future__ import annotations

from vramplan.archs._config import ConfigReader
from vramplan.core.model import Attention, LatentProjections, Linear, Norm


def latent_attention(config: ConfigReader, hidden_size: int, *, absent_key_value_heads: int | None = None) -> Attention:
    """The attention of one layer.

    Args:
        config: names the ranks and head widths; defaults are those of DeepseekV2Config and DeepseekV3Config.
            A null `q_lora_rank` is full rank.
        hidden_size: width of the stream.
        absent_key_value_heads: `num_key_value_heads` where the config has none; None for as many as query heads.
    """
    num_heads = config.required_int("num_attention_heads")
    no_position = config.integer("qk_nope_head_dim", absent=128)
    rotated = config.integer("qk_rope_head_dim", absent=64)
    v_head_dim = config.integer("v_head_dim", absent=128)
    kv_rank = config.integer("kv_lora_rank", absent=512)
    query_rank = config.optional_int("q_lora_rank", absent=1536)
    bias = config.boolean("attention_bias", absent=False)
    query_size = num_heads * (no_position + rotated)

    def project(name: str, in_features: int, out_features: int, *, bias: bool = False) -> Linear:
        return Linear(name=f"self_attn.{name}", in_features=in_features, out_features=out_features, bias=bias)

    projections = LatentProjections(
        query=project("q_proj", hidden_size, query_size) if query_rank is None else None,
        query_down=None if query_rank is None else project("q_a_proj", hidden_size, query_rank, bias=bias),
        query_norm=None if query_rank is None else Norm(name="self_attn.q_a_layernorm", size=query_rank),
        query_up=None if query_rank is None else project("q_b_proj", query_rank, query_size),
        key_value_down=project("kv_a_proj_with_mqa", hidden_size, kv_rank + rotated, bias=bias),
        key_value_norm=Norm(name="self_attn.kv_a_layernorm", size=kv_rank),
        key_value_up=project("kv_b_proj", kv_rank, num_heads * (no_position + v_head_dim)),
        kv_lora_rank=kv_rank,
        qk_nope_head_dim=no_position,
        qk_rope_head_dim=rotated,
    )
    return Attention(
        num_attention_heads=num_heads,
        num_key_value_heads=config.integer(
            "num_key_value_heads", absent=absent_key_value_heads or num_heads, null=num_heads
        ),
        head_dim=no_position + rotated,
        v_head_dim=v_head_dim,
        projections=projections,
        output=project("o_proj", num_heads * v_head_dim, hidden_size, bias=bias),
        rotary_dim=rotated,
        dropout=config.drops("attention_dropout"),
    )
