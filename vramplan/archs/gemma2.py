"""gemma2: Gemma2Config and Gemma2ForCausalLM of transformers 5.23."""

from __future__ import annotations

from vramplan.archs._attention import read_heads
from vramplan.archs._config import ConfigReader
from vramplan.archs._decoder import llama_like
from vramplan.archs._gemma import sandwich_layers
from vramplan.core.model import ModelShape, NormKind


def read(config: ConfigReader) -> ModelShape:
    """The model that a gemma2 config describes: every other layer slides, the first one does."""
    heads = read_heads(config, absent_key_value_heads=4, absent_head_dim=256)
    layers = sandwich_layers(
        config,
        heads,
        window=config.optional_int("sliding_window", absent=4096),
        slides=lambda index: index % 2 == 0,
        softcap=config.number("attn_logit_softcapping", absent=50.0) is not None,
    )
    return llama_like(
        config,
        layers=layers,
        hidden_size=heads.hidden_size,
        max_position_embeddings=8192,
        tied_by_default=True,
        norm=NormKind.RMS_GEMMA,
        embedding_multiplier=True,
        logits_softcap=config.number("final_logit_softcapping", absent=30.0) is not None,
    )
