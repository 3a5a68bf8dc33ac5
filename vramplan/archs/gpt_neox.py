"""gpt_neox: GPTNeoXConfig and GPTNeoXForCausalLM of transformers 5.23."""

from __future__ import annotations

from vramplan.archs._attention import Heads, even_head_dim, fused_attention
from vramplan.archs._config import ConfigReader
from vramplan.archs._decoder import decoder, norms
from vramplan.archs._mlp import plain_mlp
from vramplan.archs._rotary import partial_rotary_dim
from vramplan.core.model import Embedding, LayerShape, ModelShape, NormKind, ResidualStyle


def read(config: ConfigReader) -> ModelShape:
    """The model that a gpt_neox config describes: Pythia, GPT-NeoX; attention and mlp side by side."""
    hidden_size = config.required_int("hidden_size")
    num_heads = config.required_int("num_attention_heads")
    heads = Heads(
        hidden_size=hidden_size,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        head_dim=even_head_dim(config, hidden_size, num_heads),
    )
    parallel = config.boolean("use_parallel_residual", absent=True)
    layer = LayerShape(
        attention=fused_attention(
            heads,
            names=("attention.query_key_value", "attention.dense"),
            bias=config.boolean("attention_bias", absent=True),
            rotary_dim=partial_rotary_dim(config, heads.head_dim, absent=0.25, name="rotary_pct"),
            dropout=config.drops("attention_dropout"),
        ),
        mlp=plain_mlp(
            hidden_size,
            config.required_int("intermediate_size"),
            names=("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
            activation=config.text("hidden_act", absent="gelu"),
        ),
        norms=norms(hidden_size, "input_layernorm", "post_attention_layernorm", kind=NormKind.LAYER, bias=True),
        residual=ResidualStyle.PARALLEL if parallel else ResidualStyle.PRE_NORM,
        dropout=config.drops("hidden_dropout"),
    )
    vocab_size = config.required_int("vocab_size")
    return decoder(
        config,
        layers=(layer,) * config.layers("num_hidden_layers"),
        final_norm=norms(hidden_size, "gpt_neox.final_layer_norm", kind=NormKind.LAYER, bias=True)[0],
        embeddings=(Embedding(name="gpt_neox.embed_in", num_embeddings=vocab_size, embedding_dim=hidden_size),),
        tied_by_default=False,
        embedding_dropout=config.drops("hidden_dropout"),
        max_position_embeddings=config.integer("max_position_embeddings", absent=2048),
    )
