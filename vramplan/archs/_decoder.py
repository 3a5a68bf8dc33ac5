"""The frame around the layers: embeddings, final norm, head. Names of modules are those of transformers 5.23."""

from __future__ import annotations

from vramplan.archs._config import ConfigReader
from vramplan.archs._stored import stored_dtype, stored_quantization
from vramplan.core.model import Embedding, LayerShape, Linear, ModelShape, ModuleKind, Norm, NormKind


def norms(hidden_size: int, *names: str, kind: NormKind = NormKind.RMS, bias: bool = False) -> tuple[Norm, ...]:
    """A block's norms over the stream, by default llama's two."""
    used = names or ("input_layernorm", "post_attention_layernorm")
    return tuple(Norm(name=name, size=hidden_size, kind=kind, bias=bias) for name in used)


def decoder(
    config: ConfigReader,
    *,
    layers: tuple[LayerShape, ...],
    final_norm: Norm | None,
    embeddings: tuple[Embedding, ...],
    tied_by_default: bool,
    max_position_embeddings: int,
    embedding_multiplier: bool = False,
    embedding_dropout: bool = False,
    logits_softcap: bool = False,
    logits_scaling: bool = False,
    projection_in: Linear | None = None,
    projection_out: Linear | None = None,
    head_bias: bool = False,
    buffer_bytes: int = 0,
) -> ModelShape:
    """The whole model around `layers`; the head reads what `projection_out`, or else the last layer, writes."""
    vocab_size = embeddings[0].num_embeddings
    hidden_size = embeddings[0].embedding_dim if projection_in is None else projection_in.out_features
    return ModelShape(
        model_type=config.model_type,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        layers=layers,
        embeddings=embeddings,
        final_norm=final_norm,
        head=Linear(
            name="lm_head",
            in_features=embeddings[0].embedding_dim,
            out_features=vocab_size,
            bias=head_bias,
            kind=ModuleKind.HEAD,
        ),
        tie_word_embeddings=config.boolean("tie_word_embeddings", absent=tied_by_default),
        max_position_embeddings=max_position_embeddings,
        stored_dtype=stored_dtype(config),
        embedding_multiplier=embedding_multiplier,
        embedding_dropout=embedding_dropout,
        logits_softcap=logits_softcap,
        logits_scaling=logits_scaling,
        projection_in=projection_in,
        projection_out=projection_out,
        stored_quantization=stored_quantization(config),
        buffer_bytes=buffer_bytes,
    )


def llama_like(
    config: ConfigReader,
    *,
    layers: tuple[LayerShape, ...],
    hidden_size: int,
    max_position_embeddings: int,
    tied_by_default: bool = False,
    norm: NormKind = NormKind.RMS,
    absent_vocab_size: int | None = None,
    embedding_multiplier: bool = False,
    embedding_dropout: bool = False,
    logits_softcap: bool = False,
    logits_scaling: bool = False,
    buffer_bytes: int = 0,
) -> ModelShape:
    """A model with llama's frame: `model.embed_tokens`, layers, `model.norm`, `lm_head`.

    Args:
        config: names `vocab_size`, `max_position_embeddings`, `tie_word_embeddings`.
        layers: the decoder blocks.
        hidden_size: width of the stream.
        max_position_embeddings: the config class's default.
        tied_by_default: the config class's default of `tie_word_embeddings`.
        norm: the kind of the final norm; a LayerNorm has a bias.
        absent_vocab_size: the config class's default where real configs rely on it, else None.
        embedding_multiplier, embedding_dropout, logits_softcap, logits_scaling, buffer_bytes: as in ModelShape.
    """
    if absent_vocab_size is None:
        vocab_size = config.required_int("vocab_size")
    else:
        vocab_size = config.integer("vocab_size", absent=absent_vocab_size)
    return decoder(
        config,
        layers=layers,
        final_norm=Norm(name="model.norm", size=hidden_size, kind=norm, bias=norm is NormKind.LAYER),
        embeddings=(Embedding(name="model.embed_tokens", num_embeddings=vocab_size, embedding_dim=hidden_size),),
        tied_by_default=tied_by_default,
        max_position_embeddings=config.integer("max_position_embeddings", absent=max_position_embeddings),
        embedding_multiplier=embedding_multiplier,
        embedding_dropout=embedding_dropout,
        logits_softcap=logits_softcap,
        logits_scaling=logits_scaling,
        buffer_bytes=buffer_bytes,
    )
