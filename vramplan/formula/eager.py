"""Eager attention: two products with a matrix of tokens × tokens for every head between them.

Sources: transformers 5.23.0 models/*/modeling_*.py, eager_attention_forward; ATen/native/LinearAlgebra.cpp (matmul
folds rows and heads into one dimension, which copies what is not laid out that way); ATen/native/SoftMax.cpp and
cuda/SoftMax.cu.
"""

from __future__ import annotations

from vramplan.core.model import Attention, LatentProjections
from vramplan.dtypes import DType
from vramplan.formula.batch import Batch, LayerInputs
from vramplan.formula.code import Softmax
from vramplan.formula.graph import Grads, apply, connect
from vramplan.formula.kv_cache import group_size, seen_tokens
from vramplan.formula.linear import matmul
from vramplan.formula.ops import add, cat, copy, dropout, narrow, repeat, scale, to, to_autocast, unary
from vramplan.formula.rotary import joins_heads
from vramplan.formula.tape import Tape, Tensor


def eager_attention(
    tape: Tape,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    shape: Attention,
    batch: Batch,
    inputs: LayerInputs,
    sinks: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`eager_attention_forward(...)`: the result, tokens first, and the attention weights.

    Args:
        tape: where it allocates.
        query, key, value: rotated, with the cache.
        shape: heads and widths.
        batch: rows, tokens.
        inputs: the mask.
        sinks: learned sink logits, or None.
    """
    times = group_size(query, key, shape, batch)
    shared = times == shape.num_attention_heads > 1  # one head, repeated as a view: a product of several rows copies it
    latent = isinstance(shape.projections, LatentProjections)
    # repeat_kv and the cache's torch.cat leave rows and heads one stride apart.
    laid_out = not shared and (times != 1 or (batch.caches and not (latent and batch.latent_cache)))
    key, value = repeat(tape, key, times, is_view=shared), repeat(tape, value, times, is_view=shared)
    joined = latent or joins_heads(shape, inputs.code)
    left = operand(tape, query, batch, laid_out=joined or batch.tokens == 1)
    right = operand(tape, key, batch, laid_out=laid_out or (joined and not shared))
    scores = matmul(tape, left, right, query.numel // shape.head_dim * seen_tokens(shape, batch))
    del left, right
    scores = scale(tape, scores)
    if shape.softcap:
        scores = scale(tape, scores)
        scores = unary(tape, scores, saves="result")
        scores = scale(tape, scores)
    if inputs.mask is not None:
        scores = add(tape, scores, inputs.mask)
    if sinks is not None:
        owned = [scores]
        del scores  # the name is given away once the sinks are dropped
        return _with_sinks(tape, owned, sinks, value, shape, batch, laid_out=laid_out)
    if inputs.code.softmax is Softmax.FP32:
        scores = to(tape, softmax_fp32(tape, scores), query.dtype)
    else:
        scores = to(tape, softmax(tape, scores), value.dtype)
    if shape.dropout and batch.trains:
        scores = dropout(tape, scores)
    weighted = weigh(tape, scores, value, shape, batch, laid_out=laid_out)
    return copy(tape, weighted), scores


def weigh(tape: Tape, scores: Tensor, value: Tensor, shape: Attention, batch: Batch, *, laid_out: bool) -> Tensor:
    """`torch.matmul(attn_weights, value)`."""
    numel = batch.num_tokens * shape.num_attention_heads * shape.v_head_dim
    right = operand(tape, value, batch, laid_out=laid_out)
    return matmul(tape, scores, right, numel)


def operand(tape: Tape, states: Tensor, batch: Batch, *, laid_out: bool) -> Tensor:
    """The operand of a batched product: cast under autocast, copied where rows and heads are not one stride apart."""
    states = to_autocast(tape, states)
    return states if laid_out or batch.rows == 1 else copy(tape, states)


def softmax(tape: Tape, scores: Tensor) -> Tensor:
    """`softmax(scores)` in their own dtype; autocast computes it in fp32 (autocast_mode.h, fp32_set_opt_dtype)."""
    if tape.autocast is not None:
        return softmax_fp32(tape, scores)
    return unary(tape, scores, saves="result", temporaries=1)


def softmax_of(tape: Tape, scores: Tensor, dtype: DType) -> Tensor:
    """`softmax(scores, dtype=dtype)`: autocast leaves an explicit dtype alone."""
    before, tape.autocast = tape.autocast, None
    result = softmax(tape, to(tape, scores, dtype))
    tape.autocast = before
    return result


def softmax_fp32(tape: Tape, scores: Tensor) -> Tensor:
    """`softmax(scores, dtype=torch.float32)`: CUDA has one kernel from fp16 to fp32; bf16 is cast first (SoftMax.cpp).

    Its derivative makes a product of gradient and result first (cuda/SoftMax.cu, softmax_backward_cuda_out).
    """
    if scores.dtype is not DType.FP16:
        return unary(tape, to(tape, scores, DType.FP32), saves="result", temporaries=1)
    numel = scores.numel

    def derivative(_grad: Tensor) -> Grads:
        result = tape.empty(numel, DType.FP16)
        product = tape.empty(numel, DType.FP32)
        del product
        return (result,)

    return apply(tape, numel, DType.FP32, (scores,), (), derivative, saves_result=True)


def _with_sinks(
    tape: Tape, owned: list[Tensor], sinks: Tensor, value: Tensor, shape: Attention, batch: Batch, *, laid_out: bool
) -> tuple[Tensor, Tensor]:
    """gpt_oss: a column of sink logits joins the softmax and is dropped from its result.

    The scores are taken out of `owned`: their name is given away before the last product.
    """
    scores = owned.pop()
    heads = batch.rows * shape.num_attention_heads * batch.tokens
    num_sinks, dtype = sinks.numel, sinks.dtype
    expanded = Tensor(None, heads, dtype)
    column = connect(tape, expanded, (sinks,), (), lambda _grad: (tape.empty(num_sinks, dtype),))
    combined = cat(tape, [scores, column])
    combined = _less_maximum(tape, combined, heads)
    probabilities = softmax_of(tape, combined, combined.dtype)
    kept = narrow(tape, probabilities, scores.numel)
    del scores
    weights = to(tape, dropout(tape, kept) if shape.dropout and batch.trains else kept, value.dtype)
    weighted = matmul(
        tape,
        to_autocast(tape, weights),
        operand(tape, value, batch, laid_out=laid_out),
        batch.num_tokens * shape.num_attention_heads * shape.v_head_dim,
    )
    return copy(tape, weighted), weights


def _less_maximum(tape: Tape, combined: Tensor, heads: int) -> Tensor:
    """`combined - combined.max(dim=-1, keepdim=True).values`: max keeps the int64 index."""
    numel, dtype = combined.numel, combined.dtype
    largest = apply(tape, heads, dtype, (combined,), (), lambda _grad: (tape.empty(numel, dtype),))
    index = tape.empty(heads, DType.INT64)
    if largest.node is not None:
        largest.node.save(tape, index)
    del index

    def derivative(grad: Tensor) -> Grads:
        negated = tape.empty(numel, dtype)
        reduced = tape.empty(heads, dtype)
        del negated
        return (grad, reduced)

    return apply(tape, numel, dtype, (combined, largest), (), derivative)
