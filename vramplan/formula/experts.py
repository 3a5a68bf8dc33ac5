"""Mixtures of experts: the router, the routed experts as grouped products, and the shared expert.

Sources: transformers 5.23.0 integrations/moe.py (grouped_mm_experts_forward, the implementation that CUDA picks from
compute capability 8.0 on) and models/{mixtral,qwen3_moe,deepseek_v3,gpt_oss}/modeling_*.py (their routers).
"""

from __future__ import annotations

from dataclasses import replace

from vramplan.core.model import MixtureOfExperts
from vramplan.core.quick import dataclass
from vramplan.dtypes import DType
from vramplan.formula.activations import activate
from vramplan.formula.code import Code, Router
from vramplan.formula.eager import softmax_fp32, softmax_of
from vramplan.formula.graph import Grads, apply
from vramplan.formula.linear import Adapter, Weights, branch, linear, matmul
from vramplan.formula.mlp import dense
from vramplan.formula.ops import add, add_in_place, chunk, mul, narrow, promote, reduce, scale, to, unary
from vramplan.formula.parametrized import Parametrized
from vramplan.formula.tape import Tape, Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertWeights:
    """The routed experts' fused parameters: matrices, and biases where they have them.

    Args:
        gate_up, down: the matrices.
        gate_up_bias, down_bias: the biases.
        router_adapter, gate_up_adapter, down_adapter: adapters of the parameters themselves.
        folds_adapters: how the experts' are added, see `Parametrized`.
        gate_branch, up_branch, down_branch: LoRA branches of each expert's own linear layers (transformers < 5).
    """

    gate_up: Tensor
    down: Tensor
    gate_up_bias: Tensor | None = None
    down_bias: Tensor | None = None
    router_adapter: Adapter | None = None
    gate_up_adapter: Adapter | None = None
    down_adapter: Adapter | None = None
    folds_adapters: bool = True
    gate_branch: Adapter | None = None
    up_branch: Adapter | None = None
    down_branch: Adapter | None = None


def mixture(
    tape: Tape,
    hidden: Tensor,
    shape: MixtureOfExperts,
    weights: dict[str, Weights],
    experts: ExpertWeights,
    code: Code,
) -> Tensor:
    """The block of a layer.

    Args:
        tape: where it allocates.
        hidden: normalised hidden states.
        shape: how many experts, how wide.
        weights: router and shared expert by name.
        experts: the routed experts.
        code: which router.
    """
    routed = _route(tape, hidden, shape, weights[shape.router.name], experts.router_adapter, code)
    result = _routed(tape, hidden, shape, experts, routed[0])
    if shape.shared is not None:
        result = add(tape, result, dense(tape, hidden, shape.shared, weights))
    del routed
    return result


def _route(
    tape: Tape, hidden: Tensor, shape: MixtureOfExperts, weights: Weights, adapter: Adapter | None, code: Code
) -> tuple[Tensor, ...]:
    """Weights of each token's experts first."""
    routing = Parametrized(tape, weights.weight, adapter, folds=False)
    return _ROUTERS[code.router](tape, hidden, shape, replace(weights, weight=routing.value()))


def _num_tokens(hidden: Tensor, shape: MixtureOfExperts) -> int:
    return hidden.numel // shape.hidden_size


def _softmax_router(tape: Tape, hidden: Tensor, shape: MixtureOfExperts, weights: Weights) -> tuple[Tensor, ...]:
    """mixtral: fp32 probabilities, whose largest are divided by their sum and stay fp32."""
    logits = linear(tape, hidden, weights)
    chosen, index = _top_k(tape, softmax_fp32(tape, logits), _num_tokens(hidden, shape) * shape.num_experts_per_tok)
    return _divided_by_sum(tape, chosen, _num_tokens(hidden, shape)), index, logits


def _softmax_router_cast(tape: Tape, hidden: Tensor, shape: MixtureOfExperts, weights: Weights) -> tuple[Tensor, ...]:
    """qwen3_moe: the same, cast to the dtype of the logits."""
    chosen, index, logits = _softmax_router(tape, hidden, shape, weights)
    return to(tape, chosen, logits.dtype), index, logits


def _sigmoid_router(tape: Tape, hidden: Tensor, shape: MixtureOfExperts, weights: Weights) -> tuple[Tensor, ...]:
    """deepseek_v3: logits of fp32 hidden states by fp32 weights, sigmoid, the largest of the best groups."""
    tokens = _num_tokens(hidden, shape)
    logits = matmul(
        tape, to(tape, hidden, DType.FP32), to(tape, weights.weight, DType.FP32), tokens * shape.num_experts
    )
    scores = to(tape, logits, logits.dtype)
    scores = unary(tape, scores, saves="result")
    index = tape.empty(tokens * shape.num_experts_per_tok, DType.INT64)
    chosen = _gathered(tape, scores, index)
    chosen = _divided_by_sum(tape, chosen, tokens)
    return scale(tape, chosen), index, logits


def _softmax_of_fp32_router(
    tape: Tape, hidden: Tensor, shape: MixtureOfExperts, weights: Weights
) -> tuple[Tensor, ...]:
    """deepseek_v2: fp32 hidden states by fp32 weights, softmax, the largest times a factor."""
    tokens = _num_tokens(hidden, shape)
    logits = matmul(
        tape, to(tape, hidden, DType.FP32), to(tape, weights.weight, DType.FP32), tokens * shape.num_experts
    )
    scores = softmax_of(tape, logits, DType.FP32)
    chosen, index = _top_k(tape, scores, tokens * shape.num_experts_per_tok)
    return scale(tape, chosen), index, logits


def _top_k_router(tape: Tape, hidden: Tensor, shape: MixtureOfExperts, weights: Weights) -> tuple[Tensor, ...]:
    """gpt_oss: the largest logits, and their softmax."""
    logits = linear(tape, hidden, weights)
    chosen, index = _top_k(tape, logits, _num_tokens(hidden, shape) * shape.num_experts_per_tok)
    return softmax_of(tape, chosen, chosen.dtype), index, logits


_ROUTERS = {
    Router.SOFTMAX: _softmax_router,
    Router.SOFTMAX_CAST: _softmax_router_cast,
    Router.SOFTMAX_OF_FP32: _softmax_of_fp32_router,
    Router.SIGMOID: _sigmoid_router,
    Router.TOP_K: _top_k_router,
}


def _top_k(tape: Tape, values: Tensor, numel: int) -> tuple[Tensor, Tensor]:
    """Values and int64 indices; the derivative scatters into zeros of the whole."""
    index = tape.empty(numel, DType.INT64)
    return _gathered(tape, values, index), index


def _gathered(tape: Tape, values: Tensor, index: Tensor) -> Tensor:
    whole, dtype = values.numel, values.dtype
    return apply(tape, index.numel, dtype, (values,), (index,), lambda _grad: (tape.empty(whole, dtype),))


def _divided_by_sum(tape: Tape, chosen: Tensor, tokens: int) -> Tensor:
    """`values /= values.sum(dim=-1, keepdim=True)`: in place, so the quotient's derivative keeps a clone."""
    total = reduce(tape, chosen, tokens, spreads=0)
    numel, dtype = chosen.numel, chosen.dtype

    def derivative(_grad: Tensor) -> Grads:
        return tape.empty(numel, dtype), tape.empty(tokens, dtype)

    return apply(tape, numel, dtype, (chosen, total), (chosen, total), derivative)


def _routed(
    tape: Tape, hidden: Tensor, shape: MixtureOfExperts, experts: ExpertWeights, sample_weights: Tensor
) -> Tensor:
    """grouped_mm_experts_forward over tokens × experts per token, sorted by expert.

    peft's wrapper of `down_proj` is around that of `gate_up_proj`.
    """
    down = Parametrized(tape, experts.down, experts.down_adapter, folds=experts.folds_adapters)
    gate_up = Parametrized(tape, experts.gate_up, experts.gate_up_adapter, folds=experts.folds_adapters)
    pairs = _num_tokens(hidden, shape) * shape.num_experts_per_tok
    sorted_experts, permutation = tape.empty(pairs, DType.INT64), tape.empty(pairs, DType.INT64)
    selected = _rows(tape, hidden, tape.empty(pairs, DType.INT64), pairs * shape.hidden_size)
    weights = _rows(tape, sample_weights, permutation, pairs)
    histogram_input = tape.empty(pairs, DType.INT32)
    bias = _bias_rows(tape, experts.gate_up_bias, sorted_experts, shape.num_experts)
    states = _grouped(tape, selected, gate_up.value(), pairs * 2 * shape.intermediate_size, bias)
    states = _gated(tape, states, selected, shape, experts, pairs)
    bias = _bias_rows(tape, experts.down_bias, sorted_experts, shape.num_experts)
    inner, states = states, _grouped(tape, states, down.value(), pairs * shape.hidden_size, bias)
    states = _with_branch(tape, states, inner, experts.down_branch, pairs)
    del inner
    weighted = _weighted(tape, states, weights, pairs)
    weighted = _rows(tape, weighted, tape.empty(pairs, DType.INT64), weighted.numel)
    # The sum's gradient is an expanded view, which the view before it makes contiguous.
    result = to(tape, reduce(tape, weighted, hidden.numel), hidden.dtype)
    del selected, states, bias, histogram_input
    return result


def _rows(tape: Tape, states: Tensor, index: Tensor, numel: int) -> Tensor:
    """Rows picked by an index: the derivative puts them into zeros of the whole shape."""
    whole, dtype = states.numel, states.dtype
    return apply(tape, numel, dtype, (states,), (index,), lambda _grad: (tape.empty(whole, dtype),))


def _bias_rows(tape: Tape, bias: Tensor | None, experts: Tensor, num_experts: int) -> Tensor | None:
    return None if bias is None else _rows(tape, bias, experts, bias.numel // num_experts * experts.numel)


def _grouped(tape: Tape, states: Tensor, weight: Tensor, numel: int, bias: Tensor | None) -> Tensor:
    """`_grouped_linear`: the product takes the weight's dtype, autocast or not, and the bias is added in place."""
    before, tape.autocast = tape.autocast, None
    result = matmul(tape, to(tape, states, weight.dtype), weight, numel)
    tape.autocast = before
    return result if bias is None else add_in_place(tape, result, bias)


def _with_branch(tape: Tape, result: Tensor, hidden: Tensor, adapter: Adapter | None, pairs: int) -> Tensor:
    """An expert's linear layer with its LoRA branch: all experts' together, as their products are."""
    if adapter is None:
        return result
    added = add(tape, result, branch(tape, to(tape, hidden, adapter.down.dtype), adapter, pairs, result.numel))
    return to(tape, added, result.dtype)


def _gated(
    tape: Tape, states: Tensor, selected: Tensor, shape: MixtureOfExperts, experts: ExpertWeights, pairs: int
) -> Tensor:
    half = states.numel // 2
    if not shape.expert_bias:
        gate, up = chunk(tape, states, (half, half))
        gate = _with_branch(tape, gate, selected, experts.gate_branch, pairs)
        up = _with_branch(tape, up, selected, experts.up_branch, pairs)
        return mul(tape, activate(tape, gate, shape.activation), up)
    # GptOssExperts._apply_gate: interleaved views, both clamped, a sigmoid written out.
    gate, up = narrow(tape, states, half), narrow(tape, states, half)
    gate, up = unary(tape, gate), unary(tape, up)
    linear_unit = mul(tape, gate, unary(tape, scale(tape, gate), saves="result"))
    return mul(tape, scale(tape, up), linear_unit)


def _weighted(tape: Tape, states: Tensor, weights: Tensor, pairs: int) -> Tensor:
    """`states * weights.unsqueeze(-1)`: the weights' gradient is a whole product, summed."""
    numel, dtype = states.numel, promote(states.dtype, weights.dtype)
    needs = (states.requires_grad, weights.requires_grad)

    def derivative(_grad: Tensor) -> Grads:
        return [tape.empty(numel, dtype) if need else None for need in needs]

    saved = (weights if needs[0] else None, states if needs[1] else None)
    result = apply(tape, numel, dtype, (states, weights), saved, derivative)
    if result.node is not None:
        result.node.wanted = ((numel, states.dtype), (pairs, weights.dtype))
    return result
