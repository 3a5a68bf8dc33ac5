"""Key/value caches: what a layer keeps of the tokens before, and what an update allocates.

Sources: transformers 5.23 cache_utils.py (DynamicLayer, DynamicSlidingWindowLayer) and models/deepseek_v3 (latents).
"""

from __future__ import annotations

from vramplan.core.model import Attention, LatentProjections, ModelShape
from vramplan.core.run import AttentionImplementation
from vramplan.core.stack import Stack
from vramplan.dtypes import DType
from vramplan.formula.batch import Batch
from vramplan.formula.code import Code, Split, code_of
from vramplan.formula.tape import Tape, Tensor


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
    code = code_of(model.model_type)
    return sum(
        count * sum(cache_elements(layer.attention, batch, code)) * dtype.itemsize
        for layer, count in model.layer_groups()
    )


def cache_elements(shape: Attention, batch: Batch, code: Code) -> tuple[int, int]:
    """Elements of the tensors that hold a layer's keys and values after `batch.past_tokens` of each row.

    A sliding-window layer keeps a view of its window less one token; the tensor behind it has the whole window.
    """
    tokens = batch.past_tokens
    if batch.sliding_cache and shape.sliding_window is not None:
        tokens = min(tokens, shape.sliding_window)
    tokens *= batch.rows
    projections = shape.projections
    if isinstance(projections, LatentProjections) and batch.latent_cache:
        return tokens * projections.kv_lora_rank, tokens * projections.qk_rope_head_dim
    heads = shape.num_key_value_heads
    if code.split is Split.FALCON and heads > 1:  # keys and values are spread over the query heads before the cache
        heads = shape.num_attention_heads
    return tokens * heads * shape.head_dim, tokens * heads * shape.v_head_dim


def cached_tokens(shape: Attention, tokens: int, *, sliding: bool) -> int:
    """Tokens of one row that a layer's cache holds after `tokens` have passed."""
    if sliding and shape.sliding_window is not None:
        return min(tokens, shape.sliding_window - 1)
    return tokens


def seen_tokens(shape: Attention, batch: Batch) -> int:
    """Keys that a layer attends to: what its cache holds, and the new ones."""
    if not batch.caches:
        return batch.key_tokens
    return cached_tokens(shape, batch.past_tokens, sliding=batch.sliding_cache) + batch.tokens


def group_size(query: Tensor, key: Tensor, shape: Attention, batch: Batch) -> int:
    """Query heads for each key and value head, as the tensors have them now."""
    return query.numel * seen_tokens(shape, batch) // (key.numel * batch.tokens)


def update_cache(
    tape: Tape, key: Tensor, value: Tensor, shape: Attention, batch: Batch, caches: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """`past_key_values.update`: `torch.cat` with what is there, which is freed only once the longer one exists.

    A sliding-window layer keeps its window less one token as a view of that, and attends to that and the new ones.
    """
    past = cached_tokens(shape, batch.past_tokens, sliding=batch.sliding_cache)
    slides = batch.sliding_cache and shape.sliding_window is not None
    before = list(caches) if slides else []  # DynamicSlidingWindowLayer replaces both at its end
    updated = []
    with tape.owner("kv_cache"):
        for index, new in enumerate((key, value)):
            longer = tape.empty(new.numel // batch.tokens * (past + batch.tokens), new.dtype)
            updated.append(longer)
            if len(caches) > index:
                caches[index] = longer
            else:
                caches.append(longer)
    del before
    return updated[0], updated[1]
