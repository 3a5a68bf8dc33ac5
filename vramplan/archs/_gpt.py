"""What gpt2 and gpt_bigcode share: names, learned positions, layer norms."""

from __future__ import annotations

from vramplan.archs._attention import Heads, even_head_dim, fused_attention
from vramplan.archs._config import ConfigReader
from vramplan.archs._decoder import decoder, norms
from vramplan.archs._mlp import plain_mlp
from vramplan.core.model import Embedding, LayerShape, ModelShape, ModuleKind, NormKind


def read_gpt(
    config: ConfigReader, *, kind: ModuleKind, one_key_value_head: bool, activation: str, masks: bool
) -> ModelShape:
    """The model around `transformer.h`.

    Args:
        config: in gpt2's spelling (`n_embd`), or the common one, which transformers maps onto it.
        kind: what holds the matrices.
        one_key_value_head: whether all heads share one key and value (multi-query).
        activation: the default of `activation_function`.
        masks: whether the model keeps a table of `n_positions`² booleans on the device.
    """
    if config.boolean("add_cross_attention", absent=False):
        raise config.error("`add_cross_attention` makes it the decoder of another model")
    hidden_size = config.required_int("n_embd", "hidden_size")
    num_heads = config.required_int("n_head", "num_attention_heads")
    heads = Heads(
        hidden_size=hidden_size,
        num_attention_heads=num_heads,
        num_key_value_heads=1 if one_key_value_head else num_heads,
        head_dim=even_head_dim(config, hidden_size, num_heads),
    )
    layer = LayerShape(
        attention=fused_attention(
            heads,
            names=("attn.c_attn", "attn.c_proj"),
            bias=True,
            rotary_dim=0,
            kind=kind,
            dropout=config.drops("attn_pdrop", absent=0.1),
        ),
        mlp=plain_mlp(
            hidden_size,
            config.optional_int("n_inner") or 4 * hidden_size,
            names=("mlp.c_fc", "mlp.c_proj"),
            activation=config.text("activation_function", absent=activation),
            kind=kind,
        ),
        norms=norms(hidden_size, "ln_1", "ln_2", kind=NormKind.LAYER, bias=True),
        dropout=config.drops("resid_pdrop", absent=0.1),
    )
    positions = config.integer("n_positions", "max_position_embeddings", absent=1024)
    return decoder(
        config,
        layers=(layer,) * config.layers("n_layer", "num_hidden_layers"),
        final_norm=norms(hidden_size, "transformer.ln_f", kind=NormKind.LAYER, bias=True)[0],
        embeddings=(
            Embedding(
                name="transformer.wte",
                num_embeddings=config.required_int("vocab_size"),
                embedding_dim=hidden_size,
            ),
            Embedding(name="transformer.wpe", num_embeddings=positions, embedding_dim=hidden_size),
        ),
        tied_by_default=True,
        max_position_embeddings=positions,
        embedding_dropout=config.drops("embd_pdrop", absent=0.1),
        buffer_bytes=positions * positions if masks else 0,
    )
