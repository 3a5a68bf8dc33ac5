"""Rotary positions, op by op as transformers writes them.

Source: transformers 5.23.0 models/*/modeling_*.py, apply_rotary_pos_emb and its variants.
"""

from __future__ import annotations

from vramplan.core.model import Attention
from vramplan.dtypes import DType
from vramplan.formula.batch import LayerInputs
from vramplan.formula.code import Code
from vramplan.formula.graph import apply
from vramplan.formula.ops import add, cat, chunk, narrow, promote, scale, to
from vramplan.formula.tape import Tape, Tensor


def joins_heads(shape: Attention, code: Code) -> bool:
    """Whether queries and keys leave by torch.cat, which lays them out head by head and not token by token."""
    return bool(shape.rotary_dim) and (code.rotates_halves or code.slices_rotary or shape.rotary_dim < shape.head_dim)


def rotate(
    tape: Tape, query: Tensor, key: Tensor, shape: Attention, inputs: LayerInputs
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """`apply_rotary_pos_emb(query, key, cos, sin)`, for a part of each head where only a part rotates.

    Returns:
        The rotated queries and keys, and the local variables of attention that live as long as they do.
    """
    assert inputs.cosine is not None
    assert inputs.sine is not None
    if inputs.code.rotates_halves:
        return _rotate_halves(tape, query, inputs), _rotate_halves(tape, key, inputs), ()
    if not joins_heads(shape, inputs.code):
        rotated = _rotate(tape, query, inputs.cosine, inputs.sine)
        return rotated, _rotate(tape, key, inputs.cosine, inputs.sine), ()
    return _rotate_part(tape, query, key, shape, inputs)


def _rotate_part(
    tape: Tape, query: Tensor, key: Tensor, shape: Attention, inputs: LayerInputs
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Slices of both are taken first and live until both are whole again (gpt_neox, phi3), or attention ends (phi)."""
    assert inputs.cosine is not None
    assert inputs.sine is not None
    parts = []
    for states in (query, key):
        numel = states.numel // shape.head_dim * shape.rotary_dim
        parts.append((narrow(tape, states, numel), narrow(tape, states, states.numel - numel)))
    turned_query = _rotate(tape, parts[0][0], inputs.cosine, inputs.sine)
    turned_key = _rotate(tape, parts[1][0], inputs.cosine, inputs.sine)
    whole_query = cat(tape, [turned_query, parts[0][1]])
    if not inputs.code.keeps_rotary_parts:
        del turned_query
        return whole_query, cat(tape, [turned_key, parts[1][1]]), ()
    alive = (turned_query, turned_key, parts[0][1], parts[1][1])
    return whole_query, cat(tape, [turned_key, parts[1][1]]), alive


def _rotate(tape: Tape, states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """`states * cos + rotate_half(states) * sin`."""
    return add(tape, _times(tape, states, cosine), _times(tape, _turned(tape, states), sine))


def _times(tape: Tape, states: Tensor, angles: Tensor) -> Tensor:
    """A product with cos or sin, which are broadcast over rows and heads, and need no gradient."""
    numel, dtype = states.numel, promote(states.dtype, angles.dtype)
    result = apply(tape, numel, dtype, (states,), (angles,), lambda _grad: (tape.empty(numel, dtype),))
    if result.node is not None:
        result.node.wanted = ((numel, states.dtype),)
    return result


def _turned(tape: Tape, states: Tensor) -> Tensor:
    """`torch.cat((-x2, x1), dim=-1)`."""
    half = states.numel // 2
    first, second = narrow(tape, states, half), narrow(tape, states, states.numel - half)
    return cat(tape, [scale(tape, second), first])


def _rotate_halves(tape: Tape, states: Tensor, inputs: LayerInputs) -> Tensor:
    """gpt_oss: `cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin))`."""
    assert inputs.cosine is not None
    assert inputs.sine is not None
    half = states.numel // 2
    first, second = chunk(tape, states, (half, half))
    upper = add(tape, _times(tape, first, inputs.cosine), _times(tape, second, inputs.sine))
    lower = add(tape, _times(tape, second, inputs.cosine), _times(tape, first, inputs.sine))
    return cat(tape, [upper, lower])


def rotate_interleaved(tape: Tape, states: Tensor, inputs: LayerInputs) -> Tensor:
    """DeepSeek's interleaved pairs: even and odd features are views, rotated apart and concatenated."""
    assert inputs.cosine is not None
    assert inputs.sine is not None
    half = states.numel // 2
    even, odd = narrow(tape, states, half), narrow(tape, states, half)
    upper = add(tape, _times(tape, even, inputs.cosine), _times(tape, odd, inputs.sine))
    lower = add(tape, _times(tape, odd, inputs.cosine), _times(tape, even, inputs.sine))
    return cat(tape, [upper, lower])


def rotate_complex(tape: Tape, query: Tensor, key: Tensor, inputs: LayerInputs) -> tuple[Tensor, Tensor]:
    """deepseek_v2's `apply_rotary_emb`: fp32 copies of both, seen as complex numbers, live until both are rotated."""
    assert inputs.cosine is not None
    raised = [to(tape, states, DType.FP32) for states in (query, key)]
    turned = [
        to(tape, _times(tape, wide, inputs.cosine), states.dtype)
        for wide, states in zip(raised, (query, key), strict=True)
    ]
    return turned[0], turned[1]
