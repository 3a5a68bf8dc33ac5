"""Activation functions: fused kernels, and those that transformers writes as Python expressions.

Source: transformers 5.23.0 activations.py; torch derivatives.yaml for what each op keeps.
"""

from __future__ import annotations

from collections.abc import Callable

from vramplan.formula.ops import add, mul, scale, to_autocast_fp32, unary
from vramplan.formula.tape import Tape, Tensor


def activate(tape: Tape, states: Tensor, activation: str) -> Tensor:
    """`ACT2FN[activation](states)`: a fused kernel that keeps its input where nothing else is known of it."""
    written = _WRITTEN_OUT.get(activation)
    return unary(tape, states) if written is None else written(tape, states)


def _relu(tape: Tape, states: Tensor) -> Tensor:
    return unary(tape, states, saves="result")


def _new_gelu(tape: Tape, states: Tensor) -> Tensor:
    """`0.5 * x * (1.0 + tanh(c * (x + 0.044715 * pow(x, 3.0))))`; autocast computes pow in fp32."""
    half = scale(tape, states)
    # One expression: each temporary dies when the op that takes it returns.
    return mul(
        tape,
        half,
        scale(
            tape,
            unary(
                tape,
                scale(tape, add(tape, states, scale(tape, unary(tape, to_autocast_fp32(tape, states), temporaries=2)))),
                saves="result",
            ),
        ),
    )


def _fast_gelu(tape: Tape, states: Tensor) -> Tensor:
    """`0.5 * x * (1.0 + tanh(x * c * (1.0 + 0.044715 * x * x)))`."""
    half = scale(tape, states)
    return mul(
        tape,
        half,
        scale(
            tape,
            unary(
                tape,
                mul(
                    tape,
                    scale(tape, states),
                    scale(tape, mul(tape, scale(tape, states), states)),
                ),
                saves="result",
            ),
        ),
    )


def _quick_gelu(tape: Tape, states: Tensor) -> Tensor:
    """`x * sigmoid(1.702 * x)`."""
    return mul(tape, states, unary(tape, scale(tape, states), saves="result"))


_WRITTEN_OUT: dict[str, Callable[[Tape, Tensor], Tensor]] = {
    "gelu_fast": _fast_gelu,
    "gelu_new": _new_gelu,
    "quick_gelu": _quick_gelu,
    "relu": _relu,
}
