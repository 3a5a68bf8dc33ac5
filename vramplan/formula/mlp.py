"""Feed-forward blocks: dense, gated, and mixtures of experts.

Sources: transformers 5.23 models/*/modeling_*.py; integrations/moe.py for how routed experts run.
"""

from __future__ import annotations

from vramplan.core.model import MixtureOfExperts, Mlp
from vramplan.dtypes import DType
from vramplan.formula.linear import Weights, linear, matmul
from vramplan.formula.ops import add, chunk, mul, reduce, to, unary
from vramplan.formula.tape import Grads, Tape, Tensor, apply

TEMPORARIES_OF_ACTIVATION = {"gelu_new": 8, "gelu_pytorch_tanh": 0, "gelu": 0, "silu": 0, "relu": 0}


def dense(tape: Tape, hidden: Tensor, shape: Mlp, weights: dict[str, Weights]) -> Tensor:
    """`down(act(gate(hidden)) * up(hidden))`, or `down(act(up(hidden)))` without a gate.

    Args:
        tape: where it allocates.
        hidden: normalised hidden states.
        shape: which projections there are.
        weights: the modules by name.
    """
    if shape.fused_gate_up:
        both = linear(tape, hidden, weights[shape.up.name])
        gate, up = chunk(tape, both, (both.numel // 2, both.numel // 2))
        del both
        product = mul(tape, up, activate(tape, gate, shape.activation))
        return linear(tape, product, weights[shape.down.name])
    if shape.gate is None:
        up = linear(tape, hidden, weights[shape.up.name])
        up = activate(tape, up, shape.activation)
        return linear(tape, up, weights[shape.down.name])
    gate = linear(tape, hidden, weights[shape.gate.name])
    gate = activate(tape, gate, shape.activation)
    up = linear(tape, hidden, weights[shape.up.name])
    product = mul(tape, gate, up)
    del gate, up
    return linear(tape, product, weights[shape.down.name])


def activate(tape: Tape, states: Tensor, activation: str) -> Tensor:
    """The activation function: fused kernels keep their input, relu its result."""
    if activation == "relu":
        return unary(tape, states, saves="result")
    return unary(tape, states)


def mixture(
    tape: Tape, hidden: Tensor, shape: MixtureOfExperts, weights: dict[str, Weights], experts: tuple[Tensor, Tensor]
) -> Tensor:
    """Router, routed experts as grouped products over tokens × experts per token, and the shared expert.

    Args:
        tape: where it allocates.
        hidden: normalised hidden states.
        shape: how many experts, how wide.
        weights: router and shared expert by name.
        experts: the routed experts' gate-up and down weights.
    """
    num_tokens = hidden.numel // shape.hidden_size
    pairs = num_tokens * shape.num_experts_per_tok
    router = weights[shape.router.name]
    logits = linear(tape, hidden, router)
    probabilities = unary(tape, to(tape, logits, DType.FP32), saves="result")
    chosen = to(tape, _gather(tape, probabilities, pairs), logits.dtype)
    # Indices of tokens and experts: sorted experts, permutation, gathered rows, inverse permutation, all int64.
    indices = [tape.empty(pairs, DType.INT64) for _ in range(4)]
    selected = _gather(tape, hidden, pairs * shape.hidden_size)
    both = matmul(tape, selected, experts[0], pairs * 2 * shape.intermediate_size)
    gate, up = chunk(tape, both, (both.numel // 2, both.numel // 2))
    product = mul(tape, activate(tape, gate, shape.activation), up)
    del both, gate, up
    product = matmul(tape, product, experts[1], pairs * shape.hidden_size)
    weighted = mul(tape, product, chosen)
    ordered = _gather(tape, weighted, weighted.numel)
    result = reduce(tape, ordered, hidden.numel, spreads=0)
    del indices, selected, product, weighted, ordered
    if shape.shared is not None:
        result = add(tape, result, dense(tape, hidden, shape.shared, weights))
    return result


def _gather(tape: Tape, states: Tensor, numel: int) -> Tensor:
    """Rows picked by an index: the derivative scatters into zeros of the whole shape."""
    whole, dtype = states.numel, states.dtype

    def derivative(_grad: Tensor) -> Grads:
        return (tape.empty(whole, dtype),)

    return apply(tape, numel, dtype, (states,), (), derivative)
