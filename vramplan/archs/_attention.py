"""Attention blocks and the widths they are made of. Names of modules are those of transformers 5.23."""

from __future__ import annotations

from vramplan.archs._config import ConfigReader
from vramplan.core.model import Attention, FusedProjection, Linear, ModuleKind, Norm, NormKind, SeparateProjections
from vramplan.core.quick import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """The widths that an attention block is made of."""

    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int


def read_heads(
    config: ConfigReader, *, absent_key_value_heads: int | None = None, absent_head_dim: int | None = None
) -> Heads:
    """The heads of a config in llama's spelling.

    Args:
        config: has `hidden_size` and `num_attention_heads`.
        absent_key_value_heads: `num_key_value_heads` where the config has none; None for as many as query heads,
            which is what null means everywhere.
        absent_head_dim: `head_dim` where the config has none; None for hidden_size / num_attention_heads, which is
            then also what null means.
    """
    hidden_size = config.required_int("hidden_size")
    num_heads = config.required_int("num_attention_heads")
    num_key_value_heads = config.integer(
        "num_key_value_heads", absent=absent_key_value_heads or num_heads, null=num_heads
    )
    if absent_head_dim is None:
        head_dim = config.optional_int("head_dim") or even_head_dim(config, hidden_size, num_heads)
    else:
        head_dim = config.integer("head_dim", absent=absent_head_dim)
    return Heads(
        hidden_size=hidden_size,
        num_attention_heads=num_heads,
        num_key_value_heads=num_key_value_heads,
        head_dim=head_dim,
    )


def even_head_dim(config: ConfigReader, hidden_size: int, num_attention_heads: int) -> int:
    """hidden_size / num_attention_heads, where the heads share the stream evenly."""
    if hidden_size % num_attention_heads:
        raise config.error(f"a hidden_size of {hidden_size} does not divide into {num_attention_heads} heads")
    return hidden_size // num_attention_heads


def separate_attention(
    config: ConfigReader,
    heads: Heads,
    *,
    bias: bool = False,
    output_bias: bool = False,
    window: int | None = None,
    rotary_dim: int | None = None,
    head_norm: NormKind | None = None,
    num_sinks: int = 0,
    softcap: bool = False,
    output: str = "o_proj",
) -> Attention:
    """Attention with a projection each for queries, keys and values.

    Args:
        config: names `attention_dropout`.
        heads: the widths.
        bias: whether those three have biases.
        output_bias: whether the output projection has one.
        window: the sliding window, or None.
        rotary_dim: rotated widths of a head; None for all of them.
        head_norm: the norm on each query and key head (`q_norm`, `k_norm`), or None.
        num_sinks: learned sink logits.
        softcap: whether logits pass through tanh.
        output: the output projection's name.
    """
    query_size = heads.num_attention_heads * heads.head_dim
    key_value_size = heads.num_key_value_heads * heads.head_dim

    def project(name: str, out_features: int) -> Linear:
        return Linear(name=f"self_attn.{name}", in_features=heads.hidden_size, out_features=out_features, bias=bias)

    def normalise(name: str) -> Norm | None:
        return None if head_norm is None else Norm(name=f"self_attn.{name}", size=heads.head_dim, kind=head_norm)

    return Attention(
        num_attention_heads=heads.num_attention_heads,
        num_key_value_heads=heads.num_key_value_heads,
        head_dim=heads.head_dim,
        v_head_dim=heads.head_dim,
        projections=SeparateProjections(
            query=project("q_proj", query_size),
            key=project("k_proj", key_value_size),
            value=project("v_proj", key_value_size),
        ),
        output=Linear(
            name=f"self_attn.{output}", in_features=query_size, out_features=heads.hidden_size, bias=output_bias
        ),
        rotary_dim=heads.head_dim if rotary_dim is None else rotary_dim,
        sliding_window=window,
        query_norm=normalise("q_norm"),
        key_norm=normalise("k_norm"),
        num_sinks=num_sinks,
        softcap=softcap,
        dropout=config.drops("attention_dropout"),
    )


def fused_attention(
    heads: Heads,
    *,
    names: tuple[str, str],
    bias: bool,
    rotary_dim: int,
    kind: ModuleKind = ModuleKind.LINEAR,
    window: int | None = None,
    alibi: bool = False,
    dropout: bool = False,
) -> Attention:
    """Attention with one projection for queries, keys and values.

    Args:
        heads: the widths.
        names: that projection and the output projection.
        bias: whether both have biases.
        rotary_dim: rotated widths of a head.
        kind: what holds both weights.
        window: the sliding window, or None.
        alibi: whether a bias that grows with distance is added.
        dropout: whether training drops probabilities out.
    """
    query_size = heads.num_attention_heads * heads.head_dim
    out_features = query_size + 2 * heads.num_key_value_heads * heads.head_dim
    fused = Linear(name=names[0], in_features=heads.hidden_size, out_features=out_features, bias=bias, kind=kind)
    return Attention(
        num_attention_heads=heads.num_attention_heads,
        num_key_value_heads=heads.num_key_value_heads,
        head_dim=heads.head_dim,
        v_head_dim=heads.head_dim,
        projections=FusedProjection(query_key_value=fused),
        output=Linear(name=names[1], in_features=query_size, out_features=heads.hidden_size, bias=bias, kind=kind),
        rotary_dim=rotary_dim,
        sliding_window=window,
        alibi=alibi,
        dropout=dropout,
    )
