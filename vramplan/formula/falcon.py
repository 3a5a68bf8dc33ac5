"""Falcon's own attention: how heads are cut out of the fused projection, and its eager code.

Source: transformers 5.23.0 models/falcon/modeling_falcon.py, FalconAttention.
"""

from __future__ import annotations

from vramplan.core.model import Attention
from vramplan.dtypes import DType
from vramplan.formula.batch import Batch, LayerInputs
from vramplan.formula.eager import operand, softmax_of
from vramplan.formula.graph import Grads, apply, connect
from vramplan.formula.kernels import spread
from vramplan.formula.kv_cache import group_size, seen_tokens
from vramplan.formula.linear import matmul
from vramplan.formula.ops import add, copy, dropout, narrow, to
from vramplan.formula.tape import Tape, Tensor


def falcon_heads(tape: Tape, fused: Tensor, shape: Attention) -> tuple[Tensor, Tensor, Tensor]:
    """`_split_heads`: views of each third, or indexed copies of the shared key and value heads."""
    heads, groups = shape.num_attention_heads, shape.num_key_value_heads
    one = fused.numel // (heads + 2 * groups)
    query = narrow(tape, fused, one * heads)
    if groups == heads:
        return query, narrow(tape, fused, one * heads), narrow(tape, fused, one * heads)
    key, value = _indexed(tape, fused, one * groups), _indexed(tape, fused, one * groups)
    if groups > 1:  # new_decoder_architecture: every query head gets its own copy, then all three are flattened
        query = copy(tape, query)
        key, value = _flattened(tape, key, one * heads), _flattened(tape, value, one * heads)
    return query, key, value


def _indexed(tape: Tape, states: Tensor, numel: int) -> Tensor:
    """`states[..., [-2], :]`: a copy, whose derivative is put into zeros of the whole."""
    whole, dtype = states.numel, states.dtype
    return apply(tape, numel, dtype, (states,), (), lambda _grad: (tape.empty(whole, dtype),))


def _flattened(tape: Tape, states: Tensor, numel: int) -> Tensor:
    own, dtype = states.numel, states.dtype
    return apply(tape, numel, dtype, (states,), (), lambda _grad: (tape.empty(own, dtype),))


def falcon_eager(
    tape: Tape,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    shape: Attention,
    batch: Batch,
    inputs: LayerInputs,
    hidden_dtype: DType,
) -> tuple[Tensor, Tensor]:
    """Scores divided in place, masked, softmax in the dtype of the normalised hidden states (fp32 under autocast).

    Args:
        tape: where it allocates.
        query, key, value: rotated, with the cache.
        shape: heads and widths.
        batch: rows, tokens.
        inputs: the mask, in the dtype of the embeddings.
        hidden_dtype: of what the attention module is given.
    """
    mask = inputs.mask
    assert mask is not None
    shared, laid_out = group_size(query, key, shape, batch) > 1, batch.caches
    expanded = query.numel // batch.tokens * seen_tokens(shape, batch)
    left = operand(tape, query, batch, laid_out=batch.tokens == 1)
    right = operand(tape, key, batch, laid_out=laid_out or shared)
    if shared:
        right = spread(tape, right, batch, expanded)
    product = matmul(tape, left, right, query.numel // shape.head_dim * seen_tokens(shape, batch))
    del left, right
    raised = to(tape, product, DType.FP32) if shape.alibi else product
    scores = add(tape, raised, Tensor(None, 1, mask.dtype)) if shape.alibi else product
    scores = _scaled_in_place(tape, scores)
    weights = softmax_of(tape, add(tape, scores, mask), hidden_dtype)
    if shape.alibi and shape.dropout and batch.trains:
        weights = dropout(tape, weights)
    if not shape.alibi:
        del product, raised, scores
    right = operand(tape, value, batch, laid_out=laid_out or shared)
    if shared:
        right = spread(tape, right, batch, expanded)
    weighted = matmul(tape, weights, right, query.numel)
    del right
    return copy(tape, weighted), weights


def _scaled_in_place(tape: Tape, scores: Tensor) -> Tensor:
    numel, dtype = scores.numel, scores.dtype

    def derivative(_grad: Tensor) -> Grads:
        return (tape.empty(numel, dtype),)

    return connect(tape, Tensor(scores.storage, numel, dtype), (scores,), (), derivative)
