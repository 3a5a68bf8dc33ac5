"""Bytes of a key/value cache, in closed form.

Sources: transformers 5.23 cache_utils.py (DynamicLayer, DynamicSlidingWindowLayer) and models/deepseek_v3 (latents).
"""

from __future__ import annotations

from vramplan.core.model import ModelShape
from vramplan.core.run import AttentionImplementation
from vramplan.core.stack import Stack
from vramplan.dtypes import DType
from vramplan.formula.attention import Batch, cache_elements


def kv_cache_bytes(model: ModelShape, stack: Stack, *, rows: int, tokens: int, dtype: DType) -> int:
    """Bytes of the keys and values of `rows` sequences of `tokens` tokens, padding left out."""
    batch = Batch(
        rows=rows,
        tokens=1,
        past_tokens=tokens,
        implementation=AttentionImplementation.SDPA,
        sliding_cache=stack.sliding_cache,
        latent_cache=stack.latent_cache_compressed,
    )
    return sum(
        count * sum(cache_elements(layer.attention, batch)) * dtype.itemsize for layer, count in model.layer_groups()
    )
