"""Reentrant checkpointing on a tape: a block is one node, which runs a graph of its own in the backward.

Source: torch 2.13 utils/checkpoint.py CheckpointFunction; torch/csrc/autograd/python_function.cpp (gradients that are
not there become zeros).
"""

from __future__ import annotations

from vramplan.formula.graph import Leaf, Node, connect, run_graph
from vramplan.formula.recompute import Block
from vramplan.formula.tape import Tape, Tensor


def checkpoint_reentrant(tape: Tape, block: Block, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
    """Run `block` without gradients and keep its input, if that needs a gradient; without it nothing inside has one.

    In the backward the whole block runs again, to its last operation, and its results stay until its own backward is
    done, as does the gradient that arrived.

    Args:
        tape: where it allocates.
        block: a decoder layer.
        hidden: its input.
    """
    autocast = tape.autocast
    with tape.no_grad():
        result, weights = block(hidden)
    saved = [hidden.detach()]  # given up by the derivative: the node itself lives as long as the graph
    # A second result, of which the node keeps the shape.
    others = () if weights is None else ((weights.numel, weights.dtype),)

    def derivative(grad: Tensor) -> tuple[Tensor | None]:
        arrived = [grad, *(tape.empty(numel, dtype) for numel, dtype in others)]
        inner = saved.pop()
        inner.leaf = Leaf(inner.detach())
        before, tape.grad_enabled = tape.grad_enabled, True
        try:
            with tape.autocasting(autocast):
                outputs = block(inner)
        finally:
            tape.grad_enabled = before
        buffers: dict[Node, Tensor] = {}
        for output, one in zip((item for item in outputs if item is not None), arrived, strict=True):
            if output.node is not None:
                buffers[output.node] = one.detach()  # `args` holds it too, so that nothing is added to it in place
        run_graph(tape, buffers)
        found = inner.leaf.grad
        if found is not None and found.storage is not None:
            tape.owners[found.storage.serial] = tape.component  # of the residual stream, not of a parameter
        return (found,)

    connect(tape, result, (hidden,), (), derivative)
    return result, weights
