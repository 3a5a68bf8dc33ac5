"""falcon: FalconConfig and FalconForCausalLM of transformers 5.23."""

from __future__ import annotations

from vramplan.archs._attention import Heads, even_head_dim, fused_attention
from vramplan.archs._config import ConfigReader
from vramplan.archs._decoder import decoder, norms
from vramplan.archs._mlp import plain_mlp
from vramplan.core.model import Embedding, LayerShape, ModelShape, ModuleKind, NormKind, ResidualStyle


def read(config: ConfigReader) -> ModelShape:
    """The model that a falcon config describes: falcon-rw, -7b, -40b, -180b, falcon2-11b; all FalconLinear."""
    older = config.optional_int("n_embed")  # wins over hidden_size, as in FalconConfig's `__post_init__`
    hidden_size = older or config.required_int("hidden_size")
    num_heads = config.required_int("num_attention_heads")
    new = config.boolean("new_decoder_architecture", absent=False)
    bias = config.boolean("bias", absent=False)
    alibi = config.boolean("alibi", absent=False)
    heads = Heads(
        hidden_size=hidden_size,
        num_attention_heads=num_heads,
        num_key_value_heads=_key_value_heads(config, num_heads, new=new),
        head_dim=even_head_dim(config, hidden_size, num_heads),
    )
    names, residual = _norms(config, new=new)
    layer = LayerShape(
        attention=fused_attention(
            heads,
            names=("self_attention.query_key_value", "self_attention.dense"),
            bias=bias,
            rotary_dim=0 if alibi else heads.head_dim,
            kind=ModuleKind.LINEAR_SUBCLASS,
            alibi=alibi,
            dropout=config.drops("attention_dropout"),
        ),
        mlp=plain_mlp(
            hidden_size,
            config.optional_int("ffn_hidden_size") or 4 * hidden_size,
            names=("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
            activation=config.text("activation", absent="gelu"),
            bias=bias,
            kind=ModuleKind.LINEAR_SUBCLASS,
        ),
        norms=norms(hidden_size, *names, kind=NormKind.LAYER, bias=True),
        residual=residual,
        dropout=config.drops("hidden_dropout"),
    )
    vocab_size = config.required_int("vocab_size")
    return decoder(
        config,
        layers=(layer,) * config.layers("num_hidden_layers"),
        final_norm=norms(hidden_size, "transformer.ln_f", kind=NormKind.LAYER, bias=True)[0],
        embeddings=(
            Embedding(name="transformer.word_embeddings", num_embeddings=vocab_size, embedding_dim=hidden_size),
        ),
        tied_by_default=True,
        max_position_embeddings=config.integer("max_position_embeddings", absent=2048),
    )


def _key_value_heads(config: ConfigReader, num_attention_heads: int, *, new: bool) -> int:
    """`num_kv_heads` counts in the new architecture alone; before it there was one, or as many as queries."""
    if new:
        return config.integer("num_kv_heads", absent=num_attention_heads, null=num_attention_heads)
    return 1 if config.boolean("multi_query", absent=True) else num_attention_heads


def _norms(config: ConfigReader, *, new: bool) -> tuple[tuple[str, ...], ResidualStyle]:
    """The block's norms and wiring (modeling_falcon.py:552-566).

    Raises:
        UnsupportedArchitectureError: a combination whose norms transformers builds but cannot run.
    """
    parallel = config.boolean("parallel_attn", absent=True)
    in_parallel = config.optional_int("num_ln_in_parallel_attn") or (2 if new else 1)
    if parallel and in_parallel == 1:
        return ("input_layernorm",), ResidualStyle.PARALLEL_SHARED
    if parallel and new and in_parallel == 2:
        return ("ln_attn", "ln_mlp"), ResidualStyle.PARALLEL
    if not parallel and not new:
        return ("input_layernorm", "post_attention_layernorm"), ResidualStyle.PRE_NORM
    raise config.error(
        "`parallel_attn`, `new_decoder_architecture` and `num_ln_in_parallel_attn` contradict one another"
    )
