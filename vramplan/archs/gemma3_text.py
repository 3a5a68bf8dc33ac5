"""gemma3_text: Gemma3TextConfig and Gemma3ForCausalLM of transformers 5.23."""

from __future__ import annotations

from vramplan.archs._attention import Heads
from vramplan.archs._config import ConfigReader
from vramplan.archs._decoder import llama_like
from vramplan.archs._gemma import sandwich_layers
from vramplan.core.model import ModelShape, NormKind


def read(config: ConfigReader) -> ModelShape:
    """The model that a gemma3_text config, or the `text_config` of a gemma3 config, describes.

    Published `text_config`s leave out what equals the class's defaults, even heads and vocabulary, so all of those
    are restated here. Attention logits are not capped, whatever `attn_logit_softcapping` says: modeling_gemma3.py
    does not hand it on.
    """
    hidden_size = config.required_int("hidden_size")
    heads = Heads(
        hidden_size=hidden_size,
        num_attention_heads=config.integer("num_attention_heads", absent=8),
        num_key_value_heads=config.integer("num_key_value_heads", absent=4),
        head_dim=config.integer("head_dim", absent=256),
    )
    pattern = config.integer("sliding_window_pattern", "_sliding_window_pattern", absent=6)
    layers = sandwich_layers(
        config,
        heads,
        window=_window(config),
        slides=lambda index: (index + 1) % pattern != 0,
        head_norm=NormKind.RMS_GEMMA,
    )
    return llama_like(
        config,
        layers=layers,
        hidden_size=hidden_size,
        max_position_embeddings=131_072,
        tied_by_default=True,
        norm=NormKind.RMS_GEMMA,
        absent_vocab_size=262_208,
        embedding_multiplier=True,
        logits_softcap=config.number("final_logit_softcapping", absent=None) is not None,
    )


def _window(config: ConfigReader) -> int | None:
    window = config.optional_int("sliding_window", absent=4096)
    if window is not None and config.boolean("use_bidirectional_attention", absent=False):
        return window // 2 + 1  # half to each side (configuration_gemma3.py, `__post_init__`)
    return window
