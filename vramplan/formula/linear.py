"""Matrix multiplications: dense, LLM.int8, 4-bit, and a LoRA branch beside any of them.

Sources: torch derivatives.yaml (mm: keeps the input for the weight's gradient, the weight for the input's);
bitsandbytes 0.50.2 autograd/_functions.py and backends/cuda/ops.py (4-bit weights are dequantised whole above a few
hundred tokens, and always in the backward; LLM.int8 makes an fp16 copy, an int8 copy, an outlier mask and an int32
product, and keeps its input as a Python attribute); peft 0.21.2 tuners/lora/layer.py and bnb.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from vramplan.core.run import Quantization
from vramplan.dtypes import DType
from vramplan.formula.graph import Grads, Leaf, apply, connect
from vramplan.formula.ops import add, copy, promote, scale, to, to_autocast
from vramplan.formula.tape import Tape, Tensor

FUSED_4BIT_MAX_ROWS = 5
"""bitsandbytes 0.50.2 backends/cuda/ops.py, _GEMM_4BIT_CUSTOM_FLOOR_M: below it every GPU uses the fused kernel."""


@dataclass(slots=True, kw_only=True)
class Adapter:
    """The two matrices of a LoRA branch, `r` × in and out × `r`, or those of all experts of a layer."""

    r: int
    down: Tensor
    up: Tensor


@dataclass(slots=True, kw_only=True)
class Weights:
    """A linear layer ready to run.

    Args:
        in_features, out_features: its shape.
        weight: the dense weight, or a stand-in of the compute dtype where it is quantised.
        bias: the bias, or None.
        quantization: how the weight is stored.
        adapter: the LoRA branch, or None.
        written_out: `input @ weight.T + bias` (FalconLinear): the bias is an op of its own, and autocast does not keep
            the cast of a transposed weight, which is no leaf.
    """

    in_features: int
    out_features: int
    weight: Tensor
    bias: Tensor | None = None
    quantization: Quantization = Quantization.NONE
    adapter: Adapter | None = None
    written_out: bool = False


def parameter(numel: int, dtype: DType, *, trains: bool, has_gradient: bool = False) -> Tensor:
    """A weight: counted elsewhere, so without storage here, and so is a gradient that it has already."""
    weight = Tensor(None, numel, dtype)
    if trains:
        weight.leaf = Leaf()
        weight.leaf.grad = Tensor(None, numel, dtype) if has_gradient else None
    return weight


def linear(tape: Tape, hidden: Tensor, weights: Weights) -> Tensor:
    """`module(hidden)`, with its LoRA branch if it has one.

    Args:
        tape: where it allocates.
        hidden: tokens × in_features.
        weights: the module.

    Returns:
        tokens × out_features.
    """
    result = _base(tape, hidden, weights)
    adapter = weights.adapter
    if adapter is None:
        return result
    result_dtype = result.dtype
    if weights.quantization in (Quantization.NF4, Quantization.FP4):
        result = copy(tape, result)  # peft lora/bnb.py: the defensive clone
    if weights.quantization is Quantization.NONE or tape.autocast is None:
        hidden = to(tape, hidden, adapter.down.dtype)
    added = branch(tape, hidden, adapter, hidden.numel // weights.in_features, result.numel)
    if weights.quantization is not Quantization.NONE and tape.autocast is None:
        added = to(tape, added, result_dtype)
    result = add(tape, result, added)
    del added
    return to(tape, result, result_dtype)


def branch(tape: Tape, hidden: Tensor, adapter: Adapter, rows: int, numel: int) -> Tensor:
    """`lora_B(lora_A(hidden)) * scaling` over `rows` rows, of `numel` elements."""
    shrunk = matmul(tape, hidden, adapter.down, rows * adapter.r)
    result = matmul(tape, shrunk, adapter.up, numel)
    del shrunk
    return scale(tape, result)


def _base(tape: Tape, hidden: Tensor, weights: Weights) -> Tensor:
    if weights.quantization is Quantization.INT8:
        return _int8(tape, hidden, weights)
    if weights.quantization is Quantization.NONE:
        numel = hidden.numel // weights.in_features * weights.out_features
        if weights.written_out:
            weight = weights.weight if tape.autocast is None else to(tape, weights.weight, tape.autocast)
            result = matmul(tape, hidden, weight, numel)
            return result if weights.bias is None else add(tape, result, weights.bias)
        return matmul(tape, hidden, weights.weight, numel, bias=weights.bias)
    return _four_bit(tape, hidden, weights)


def matmul(tape: Tape, hidden: Tensor, weight: Tensor, numel: int, *, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear(hidden, weight, bias)` with a result of `numel` elements."""
    hidden = to_autocast(tape, hidden)
    weight = to_autocast(tape, weight)
    if bias is not None:
        bias = to_autocast(tape, bias)
    dtype = promote(hidden.dtype, weight.dtype)
    in_numel, weight_numel = hidden.numel, weight.numel
    bias_numel = 0 if bias is None else bias.numel
    needs = (hidden.requires_grad, weight.requires_grad, bias is not None and bias.requires_grad)

    def derivative(_grad: Tensor) -> Grads:
        return [
            tape.empty(size, dtype) if need else None
            for size, need in zip((in_numel, weight_numel, bias_numel), needs, strict=True)
        ]

    saved = (hidden if needs[1] else None, weight if needs[0] else None)
    return apply(tape, numel, dtype, (hidden, weight, bias), saved, derivative)


def _four_bit(tape: Tape, hidden: Tensor, weights: Weights) -> Tensor:
    """bitsandbytes Linear4bit.forward: cast to the compute dtype, MatMul4Bit, cast back."""
    input_dtype, compute_dtype = hidden.dtype, weights.weight.dtype
    hidden = to(tape, hidden, compute_dtype)
    rows, in_numel = hidden.numel // weights.in_features, hidden.numel
    weight_numel = weights.in_features * weights.out_features
    dequantized = None
    if rows > FUSED_4BIT_MAX_ROWS:
        with tape.owner("dequantized"):
            dequantized = tape.empty(weight_numel, compute_dtype)

    def derivative(_grad: Tensor) -> Grads:
        with tape.owner("dequantized"):
            whole = tape.empty(weight_numel, compute_dtype)
        grad_input = tape.empty(in_numel, compute_dtype)
        del whole
        return (grad_input,)

    result = apply(tape, rows * weights.out_features, compute_dtype, (hidden,), (), derivative)
    del dequantized
    return to(tape, result, input_dtype)


def _int8(tape: Tape, hidden: Tensor, weights: Weights) -> Tensor:
    """bitsandbytes MatMul8bitLt with the default outlier threshold of 6.0 and no outliers found."""
    rows, in_numel, dtype = hidden.numel // weights.in_features, hidden.numel, hidden.dtype
    half = tape.empty(in_numel, DType.FP16) if dtype is not DType.FP16 else None
    row_stats = tape.empty(rows, DType.FP32)
    quantized = tape.empty(in_numel, DType.INT8)
    magnitude = tape.empty(in_numel, DType.FP16)
    mask = tape.empty(in_numel, DType.BOOL)
    del magnitude, mask, half
    product = tape.empty(rows * weights.out_features, DType.INT32)
    result = tape.empty(rows * weights.out_features, DType.FP16)
    if dtype is not DType.FP16:
        result = tape.empty(rows * weights.out_features, dtype)
    del product, quantized, row_stats
    weight_numel = weights.in_features * weights.out_features

    def derivative(_grad: Tensor) -> Grads:
        with tape.owner("dequantized"):
            whole = tape.empty(weight_numel, dtype)
        grad_input = tape.empty(in_numel, dtype)
        del whole
        return (grad_input,)

    connect(tape, result, (hidden,), (), derivative)
    if result.node is not None:
        result.node.attributes = hidden.detach()
    return result
