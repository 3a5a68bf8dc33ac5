"""Fused attention kernels: flash, memory-efficient, and the plain products that sdpa falls back to.

Sources: PyTorch aten/src/ATen/native/transformers/cuda/attention.cu, attention_backward.cu, flash_attn/flash_api.cpp
and transformers/attention.cpp (torch 2.13).
"""

from __future__ import annotations

from vramplan.core.model import Attention
from vramplan.dtypes import DType
from vramplan.formula.batch import Batch
from vramplan.formula.graph import Grads, apply
from vramplan.formula.kv_cache import seen_tokens
from vramplan.formula.linear import matmul
from vramplan.formula.ops import autocast_dtype, promote, scale, to, to_autocast, unary
from vramplan.formula.tape import Tape, Tensor

FLASH_ROWS = 128
"""flash_api.cpp rounds the query length of its accumulators up to this."""
EFFICIENT_ROWS, EFFICIENT_TILE = 32, 64
"""kernel_forward.h kAlignLSE; kernel_backward.h accumulates dQ in tiles of 64 × 64."""
NEEDS_ACCUMULATOR_ABOVE = 128
"""kernel_forward.h kNeedsOutputAccumulatorBuffer: values wider than this get an fp32 output buffer."""
MASK_ALIGNMENT = 16
"""attention.cpp preprocess_mask: rows of an additive mask are padded to this."""


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def flash(tape: Tape, query: Tensor, key: Tensor, value: Tensor, shape: Attention, batch: Batch) -> Tensor:
    """Flash attention, in sdpa or from the flash-attn package: nothing of tokens × tokens is kept.

    It keeps q, k, v, its result and an fp32 log-sum-exp; its backward accumulates dQ in fp32 and, where heads are
    grouped, makes dK and dV for every query head first.
    """
    query, key, value = to_autocast(tape, query), to_autocast(tape, key), to_autocast(tape, value)
    heads, dtype = shape.num_attention_heads, query.dtype
    numels = (query.numel, key.numel, value.numel)
    key_heads = key.numel // (batch.rows * seen_tokens(shape, batch) * shape.head_dim)
    padded_tokens = _round_up(batch.tokens, FLASH_ROWS)
    padded_dim = _round_up(shape.head_dim, 32 if shape.head_dim <= 128 else 64)

    def derivative(_grad: Tensor) -> Grads:
        grads = [tape.empty(numel, dtype) for numel in numels]
        sums = tape.empty(batch.rows * heads * padded_tokens, DType.FP32)
        accumulator = tape.empty(batch.rows * padded_tokens * heads * padded_dim, DType.FP32)
        expanded = [tape.empty(numel // key_heads * heads, dtype) for numel in numels[1:] if key_heads != heads]
        del sums, accumulator, expanded
        return grads

    result_numel = batch.num_tokens * heads * shape.v_head_dim
    result = apply(tape, result_numel, dtype, (query, key, value), (query, key, value), derivative, saves_result=True)
    log_sum_exp = tape.empty(batch.rows * heads * batch.tokens, DType.FP32)
    if result.node is not None:
        result.node.save(tape, log_sum_exp)
    return result


def efficient(
    tape: Tape, query: Tensor, key: Tensor, value: Tensor, shape: Attention, batch: Batch, mask: Tensor | None
) -> Tensor:
    """The memory-efficient kernel of sdpa, where flash cannot run: before compute capability 8.0, in fp32, or masked.

    A boolean mask is made additive for each call, and kept; an additive one is cast under autocast.
    """
    query, key, value = to_autocast(tape, query), to_autocast(tape, key), to_autocast(tape, value)
    dtype = promote(query.dtype, value.dtype)
    numels = (query.numel, key.numel, value.numel)
    rows = batch.rows * shape.num_attention_heads
    if mask is not None:
        mask = additive(tape, mask, dtype, seen_tokens(shape, batch))

    def derivative(_grad: Tensor) -> Grads:
        grads = [tape.empty(numel, dtype) for numel in numels]
        if dtype is DType.FP32:
            product = tape.empty(numels[0], DType.FP32)
            delta = tape.empty(rows * batch.tokens, DType.FP32)
            del product, delta
        else:
            delta = tape.empty(rows * batch.tokens, DType.FP32)
            tile = _round_up(batch.tokens, EFFICIENT_TILE) * _round_up(shape.head_dim, EFFICIENT_TILE)
            workspace = tape.empty(rows * tile, DType.FP32)
            del delta, workspace
        return grads

    result_numel = batch.num_tokens * shape.num_attention_heads * shape.v_head_dim
    saved = (query, key, value, mask)
    result = apply(tape, result_numel, dtype, (query, key, value), saved, derivative, saves_result=True)
    if result.node is not None:
        result.node.save(tape, tape.empty(rows * _round_up(batch.tokens, EFFICIENT_ROWS), DType.FP32))
    if shape.v_head_dim > NEEDS_ACCUMULATOR_ABOVE and dtype is not DType.FP32:
        accumulator = tape.empty(result_numel, DType.FP32)
        del accumulator
    return result


def additive(tape: Tape, mask: Tensor, dtype: DType, key_tokens: int) -> Tensor:
    """attention.cpp convert_boolean_attn_mask and preprocess_mask."""
    if mask.dtype is not dtype:
        mask = tape.empty(mask.numel, dtype)
    if key_tokens % MASK_ALIGNMENT:
        mask = tape.empty(mask.numel // key_tokens * _round_up(key_tokens, MASK_ALIGNMENT), dtype)
    return mask


def math_attention(
    tape: Tape, query: Tensor, key: Tensor, value: Tensor, shape: Attention, batch: Batch, mask: Tensor | None
) -> Tensor:
    """_scaled_dot_product_attention_math: half precision is computed in fp32, and every matrix of scores is kept.

    Heads are not grouped here: one key and value head is spread over all query heads by the products.
    """
    origin = promote(autocast_dtype(tape, query), autocast_dtype(tape, value))
    query, key, value = (to(tape, to_autocast(tape, one), DType.FP32) for one in (query, key, value))
    before, tape.autocast = tape.autocast, None
    if mask is not None and mask.dtype is DType.BOOL:
        mask = tape.empty(mask.numel, origin)
    if mask is None and batch.tokens > 1:  # is_causal: lower triangle of ones, made additive in the products' dtype
        mask = tape.empty(batch.tokens * seen_tokens(shape, batch), DType.FP32)
    left = spread(tape, scale(tape, query), batch, query.numel)
    right = spread(tape, scale(tape, key), batch, query.numel // batch.tokens * seen_tokens(shape, batch))
    scores = matmul(tape, left, right, query.numel // shape.head_dim * seen_tokens(shape, batch))
    del right
    scores = unary(tape, scores, saves="result", temporaries=1)
    right = spread(tape, value, batch, query.numel // batch.tokens * seen_tokens(shape, batch))
    weighted = matmul(tape, scores, right, query.numel)
    del right
    tape.autocast = before
    del left  # a local of the function, unlike the scaled keys
    return to(tape, weighted, origin)


def spread(tape: Tape, states: Tensor, batch: Batch, numel: int) -> Tensor:
    """A product's operand spread over `numel` elements; a copy where there are several rows (LinearAlgebra.cpp)."""
    own, dtype = states.numel, states.dtype
    if own == numel:
        return states
    if batch.rows == 1:
        return Tensor(states.storage, numel, dtype, states.node, states.leaf)
    return apply(tape, numel, dtype, (states,), (), lambda _grad: (tape.empty(own, dtype),))
