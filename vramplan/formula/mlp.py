"""Dense feed-forward blocks.

Source: transformers 5.23.0 models/*/modeling_*.py.
"""

from __future__ import annotations

from vramplan.core.model import Mlp
from vramplan.formula.activations import activate
from vramplan.formula.linear import Weights, linear
from vramplan.formula.ops import chunk, mul
from vramplan.formula.tape import Tape, Tensor


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
        return plain(tape, [hidden], shape, weights)
    gate = linear(tape, hidden, weights[shape.gate.name])
    gate = activate(tape, gate, shape.activation)
    up = linear(tape, hidden, weights[shape.up.name])
    product = mul(tape, gate, up)
    del gate, up
    return linear(tape, product, weights[shape.down.name])


def plain(tape: Tape, owned: list[Tensor], shape: Mlp, weights: dict[str, Weights]) -> Tensor:
    """`down(act(up(hidden)))`, with one name for all of it.

    Args:
        tape: where it allocates.
        owned: holds the hidden states; taken out, so that they die with the first product where nobody else has them.
        shape: which projections there are.
        weights: the modules by name.
    """
    up = linear(tape, owned.pop(), weights[shape.up.name])
    up = activate(tape, up, shape.activation)
    return linear(tape, up, weights[shape.down.name])
