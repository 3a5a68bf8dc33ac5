"""opt: OPTConfig and OPTForCausalLM of transformers 5.23."""

from __future__ import annotations

from vramplan.archs._attention import Heads, even_head_dim, separate_attention
from vramplan.archs._config import ConfigReader
from vramplan.archs._decoder import decoder
from vramplan.archs._mlp import plain_mlp
from vramplan.core.model import Embedding, LayerShape, Linear, ModelShape, Norm, NormKind, ResidualStyle

# OPTLearnedPositionalEmbedding keeps two rows before position 0 (modeling_opt.py:53).
_POSITION_OFFSET = 2


def read(config: ConfigReader) -> ModelShape:
    """The model that an opt config describes; opt-350m normalises after its branches and narrows its embedding."""
    hidden_size = config.required_int("hidden_size")
    num_heads = config.required_int("num_attention_heads")
    bias = config.boolean("enable_bias", absent=True)
    affine = config.boolean("layer_norm_elementwise_affine", absent=True)
    norm_first = config.boolean("do_layer_norm_before", absent=True)

    def norm(name: str) -> Norm:
        return Norm(name=name, size=hidden_size, kind=NormKind.LAYER, bias=True, affine=affine)

    heads = Heads(
        hidden_size=hidden_size,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        head_dim=even_head_dim(config, hidden_size, num_heads),
    )
    layer = LayerShape(
        attention=separate_attention(config, heads, bias=bias, output_bias=bias, rotary_dim=0, output="out_proj"),
        mlp=plain_mlp(
            hidden_size,
            config.required_int("ffn_dim"),
            names=("fc1", "fc2"),
            activation=config.text("activation_function", absent="relu"),
            bias=bias,
        ),
        norms=(norm("self_attn_layer_norm"), norm("final_layer_norm")),
        residual=ResidualStyle.PRE_NORM if norm_first else ResidualStyle.POST_NORM,
        dropout=config.drops("dropout", absent=0.1),
    )
    positions = config.integer("max_position_embeddings", absent=2048)
    has_final_norm = norm_first and not config.boolean("_remove_final_layer_norm", absent=False)
    narrow = config.integer("word_embed_proj_dim", absent=hidden_size, null=hidden_size)
    projects = narrow != hidden_size
    return decoder(
        config,
        layers=(layer,) * config.layers("num_hidden_layers"),
        final_norm=norm("model.decoder.final_layer_norm") if has_final_norm else None,
        embeddings=(
            Embedding(
                name="model.decoder.embed_tokens",
                num_embeddings=config.required_int("vocab_size"),
                embedding_dim=narrow,
            ),
            Embedding(
                name="model.decoder.embed_positions",
                num_embeddings=positions + _POSITION_OFFSET,
                embedding_dim=hidden_size,
            ),
        ),
        tied_by_default=True,
        max_position_embeddings=positions,
        projection_in=_project("project_in", narrow, hidden_size) if projects else None,
        projection_out=_project("project_out", hidden_size, narrow) if projects else None,
    )


def _project(name: str, in_features: int, out_features: int) -> Linear:
    return Linear(name=f"model.decoder.{name}", in_features=in_features, out_features=out_features)
