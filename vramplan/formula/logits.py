"""The head and what is made of its logits: a loss, log-probabilities, or nothing.

Sources: transformers loss/loss_utils.py by version; ATen LogSoftMax (keeps its result) and NLLLoss (its gradient is a
zeroed matrix of the whole size); TRL and RLT as in `vramplan.formula.logprobs`.
"""

from __future__ import annotations

from dataclasses import dataclass

from vramplan.core.model import ModelShape
from vramplan.core.stack import Stack
from vramplan.dtypes import DType
from vramplan.formula.graph import Grads, apply, connect
from vramplan.formula.linear import Weights, linear
from vramplan.formula.norms import normalise
from vramplan.formula.ops import copy, scale, to, to_autocast_fp32, unary
from vramplan.formula.tape import Tape, Tensor


@dataclass(slots=True, kw_only=True)
class HeadWeights:
    """Final norm, head and the projection before it (opt-350m)."""

    norm: tuple[Tensor, Tensor | None] | None
    head: Weights
    projection: Weights | None = None


def final_norm(tape: Tape, hidden: Tensor, model: ModelShape, weights: HeadWeights) -> Tensor:
    """The norm after the last layer, and opt-350m's projection back to the embedding's width."""
    if model.final_norm is not None:
        assert weights.norm is not None
        weight, bias = weights.norm
        hidden = normalise(tape, hidden, weight, kind=model.final_norm.kind, size=model.final_norm.size, bias=bias)
    if weights.projection is not None:
        hidden = linear(tape, hidden, weights.projection)
    return hidden


def head_logits(tape: Tape, hidden: Tensor, model: ModelShape, weights: HeadWeights, *, rows: int | None) -> Tensor:
    """`lm_head(hidden)`, scaled or capped where the architecture does.

    Args:
        tape: where it allocates.
        hidden: tokens × hidden_size after the final norm.
        model: what follows the product.
        weights: the head.
        rows: how many of the tokens get logits (a slice, without a copy), or None for all.
    """
    if rows is not None:
        whole, dtype = hidden.numel, hidden.dtype
        part = Tensor(hidden.storage, rows * weights.head.in_features, dtype)
        hidden = connect(tape, part, (hidden,), (), lambda _grad: (tape.empty(whole, dtype),))
    with tape.owner("logits"):
        logits = linear(tape, hidden, weights.head)
        if model.logits_scaling:
            logits = scale(tape, logits)
        if model.logits_softcap:
            logits = scale(tape, unary(tape, scale(tape, logits), saves="result"))
    return logits


def causal_loss(
    tape: Tape, logits: Tensor, tokens: tuple[int, int], vocab_size: int, stack: Stack, *, upcasts: bool = True
) -> Tensor:
    """The model's own loss on labels: fp32 logits, shifted, log-softmax, negative log-likelihood.

    Args:
        tape: where it allocates.
        logits: rows × tokens × vocab_size.
        tokens: rows and tokens of each.
        vocab_size: columns.
        stack: whether logits or labels are shifted.
        upcasts: whether the loss is taken of fp32 logits.

    Returns:
        A loss of one element.
    """
    rows, length = tokens
    with tape.owner("logits"):
        if upcasts:
            logits = to(tape, logits, DType.FP32)
        labels = tape.empty(rows * length, DType.INT64)
        if stack.loss_shifts_logits:
            whole = logits.numel
            kept = rows * (length - 1) * vocab_size
            dtype = logits.dtype
            shifted = Tensor(logits.storage, kept, dtype)
            connect(tape, shifted, (logits,), (), lambda _grad: (tape.empty(whole, dtype),))
            if rows > 1:
                shifted = copy(tape, shifted)
        else:
            shifted = logits
        return cross_entropy(tape, shifted, labels)


def cross_entropy(tape: Tape, logits: Tensor, labels: Tensor) -> Tensor:
    """`torch.nn.functional.cross_entropy` in the dtype of the logits.

    ATen LossNLL.cpp tells log_softmax that dtype, which autocast respects; what it makes fp32 is nll_loss's input.
    """
    log_probabilities = to_autocast_fp32(tape, unary(tape, logits, saves="result"))
    numel, dtype = log_probabilities.numel, log_probabilities.dtype

    def derivative(_grad: Tensor) -> Grads:
        return (tape.empty(numel, dtype),)

    return apply(tape, 1, dtype, (log_probabilities,), (log_probabilities, labels), derivative)
