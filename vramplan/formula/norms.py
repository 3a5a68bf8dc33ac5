"""Normalisations, op by op as transformers writes them: which copies they make is where their memory goes."""

from __future__ import annotations

from vramplan.core.model import NormKind
from vramplan.dtypes import DType
from vramplan.formula.graph import Grads, apply
from vramplan.formula.ops import add, mul, promote, reduce, scale, to, to_autocast_fp32, unary
from vramplan.formula.tape import Tape, Tensor


def normalise(
    tape: Tape, hidden: Tensor, weight: Tensor, *, kind: NormKind, size: int, bias: Tensor | None = None
) -> Tensor:
    """`norm(hidden)` over its last `size` features.

    Args:
        tape: where it allocates.
        hidden: the input.
        weight: the norm's weight.
        kind: which code runs.
        size: features that are normalised together.
        bias: LayerNorm's bias, or None.
    """
    if kind is NormKind.LAYER:
        return _layer_norm(tape, hidden, weight, bias, size)
    input_dtype = hidden.dtype
    hidden = to(tape, hidden, DType.FP32)
    # pow's derivative is grad * (exponent * self.pow(exponent - 1)): two temporaries beside its result.
    squares = unary(tape, hidden, temporaries=2)
    variance = scale(tape, reduce(tape, squares, hidden.numel // size))
    del squares
    inverse = unary(tape, variance, saves="result", temporaries=2)
    del variance
    hidden = mul(tape, hidden, inverse)
    if kind is NormKind.RMS:
        hidden = to(tape, hidden, input_dtype)
        return mul(tape, weight, hidden)
    if kind is NormKind.RMS_GEMMA:
        weight = scale(tape, to(tape, weight, DType.FP32))  # 1.0 + weight.float()
    hidden = mul(tape, hidden, weight)
    return to(tape, hidden, input_dtype)


def _layer_norm(tape: Tape, hidden: Tensor, weight: Tensor, bias: Tensor | None, size: int) -> Tensor:
    """torch.nn.LayerNorm: keeps its input and fp32 mean and inverse deviation; fp32 under autocast."""
    hidden, weight = to_autocast_fp32(tape, hidden), to_autocast_fp32(tape, weight)
    bias = None if bias is None else to_autocast_fp32(tape, bias)
    rows, numel = hidden.numel // size, hidden.numel
    dtype = promote(hidden.dtype, weight.dtype)
    weight_needs, bias_needs = weight.requires_grad, bias is not None and bias.requires_grad
    input_needs, weight_dtype = hidden.requires_grad, weight.dtype

    def derivative(_grad: Tensor) -> Grads:
        return [
            tape.empty(numel, dtype) if input_needs else None,
            tape.empty(size, weight_dtype) if weight_needs else None,
            tape.empty(size, weight_dtype) if bias_needs else None,
        ]

    result = apply(tape, numel, dtype, (hidden, weight, bias), (hidden, weight, bias), derivative)
    mean, deviation = tape.empty(rows, DType.FP32), tape.empty(rows, DType.FP32)
    if result.node is not None:
        result.node.save(tape, mean)
        result.node.save(tape, deviation)
    return result


def add_residual(tape: Tape, residual: Tensor, branch: Tensor, *, multiplier: bool) -> Tensor:
    """`residual + branch`, the branch scaled first where the architecture does (granite)."""
    if multiplier:
        branch = scale(tape, branch)
    return add(tape, residual, branch)
