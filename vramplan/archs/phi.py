"""phi: PhiConfig and PhiForCausalLM of transformers 5.23."""

from __future__ import annotations

from vramplan.archs._attention import read_heads, separate_attention
from vramplan.archs._config import ConfigReader
from vramplan.archs._decoder import decoder, norms
from vramplan.archs._mlp import plain_mlp
from vramplan.archs._rotary import partial_rotary_dim
from vramplan.core.model import Embedding, LayerShape, ModelShape, NormKind, ResidualStyle


def read(config: ConfigReader) -> ModelShape:
    """The model that a phi config describes: phi-1, 1.5, 2; one norm feeds both branches, the head has a bias."""
    if config.boolean("qk_layernorm", absent=False):
        raise config.error("`qk_layernorm` is on, which no published phi model has and this reader does not know")
    heads = read_heads(config)
    layer = LayerShape(
        attention=separate_attention(
            config,
            heads,
            bias=True,
            output_bias=True,
            rotary_dim=partial_rotary_dim(config, heads.head_dim, absent=0.5),
            output="dense",
        ),
        mlp=plain_mlp(
            heads.hidden_size,
            config.required_int("intermediate_size"),
            names=("mlp.fc1", "mlp.fc2"),
            activation=config.text("hidden_act", absent="gelu_new"),
        ),
        norms=norms(heads.hidden_size, "input_layernorm", kind=NormKind.LAYER, bias=True),
        residual=ResidualStyle.PARALLEL_SHARED,
        dropout=config.drops("resid_pdrop"),
    )
    vocab_size = config.required_int("vocab_size")
    return decoder(
        config,
        layers=(layer,) * config.layers("num_hidden_layers"),
        final_norm=norms(heads.hidden_size, "model.final_layernorm", kind=NormKind.LAYER, bias=True)[0],
        embeddings=(Embedding(name="model.embed_tokens", num_embeddings=vocab_size, embedding_dim=heads.hidden_size),),
        tied_by_default=False,
        max_position_embeddings=config.integer("max_position_embeddings", absent=2048),
        embedding_dropout=config.drops("embd_pdrop"),
        head_bias=True,
    )
