"""One decoder layer: how norms, attention and feed-forward are wired, with the lifetimes of its local variables."""

from __future__ import annotations

from dataclasses import dataclass

from vramplan.core.model import LayerShape, MixtureOfExperts, Norm, ResidualStyle
from vramplan.formula.attention import AttentionWeights, Batch, attention
from vramplan.formula.linear import Weights
from vramplan.formula.mlp import dense, mixture
from vramplan.formula.norms import add_residual, normalise
from vramplan.formula.ops import add, dropout
from vramplan.formula.tape import Tape, Tensor


@dataclass(slots=True, kw_only=True)
class LayerWeights:
    """The modules of one layer, ready to run.

    Args:
        shape: the layer.
        linears: projections by name.
        norms: (weight, bias) by name.
        experts: the routed experts' weights, None for a dense layer.
    """

    shape: LayerShape
    linears: dict[str, Weights]
    norms: dict[str, tuple[Tensor, Tensor | None]]
    experts: tuple[Tensor, Tensor] | None = None


def run_layer(tape: Tape, hidden: Tensor, weights: LayerWeights, batch: Batch, caches: list[Tensor]) -> Tensor:
    """`decoder_layer(hidden)`.

    Args:
        tape: where it allocates.
        hidden: the residual stream.
        weights: the layer.
        batch: rows, tokens, positions, mask.
        caches: where key and value caches are kept.
    """
    style = weights.shape.residual
    if style in (ResidualStyle.PARALLEL, ResidualStyle.PARALLEL_SHARED):
        return _parallel(tape, hidden, weights, batch, caches)
    if style is ResidualStyle.SANDWICH:
        return _sandwich(tape, hidden, weights, batch, caches)
    if style is ResidualStyle.POST_NORM:
        return _post_norm(tape, hidden, weights, batch, caches)
    shape = weights.shape
    residual = hidden
    hidden = _norm(tape, hidden, weights, shape.norms[0])
    hidden, probabilities = _attention(tape, hidden, weights, batch, caches)
    hidden = add_residual(tape, residual, hidden, multiplier=shape.residual_multiplier)
    residual = hidden
    hidden = _norm(tape, hidden, weights, shape.norms[1])
    hidden = _mlp(tape, hidden, weights, batch)
    hidden = add_residual(tape, residual, hidden, multiplier=shape.residual_multiplier)
    del probabilities  # the decoder layer's `_` holds them until it returns
    return hidden


def _post_norm(tape: Tape, hidden: Tensor, weights: LayerWeights, batch: Batch, caches: list[Tensor]) -> Tensor:
    norms = weights.shape.norms
    residual = hidden
    hidden, probabilities = _attention(tape, hidden, weights, batch, caches)
    hidden = _norm(tape, add(tape, residual, hidden), weights, norms[0])
    residual = hidden
    hidden = _mlp(tape, hidden, weights, batch)
    hidden = _norm(tape, add(tape, residual, hidden), weights, norms[1])
    del probabilities
    return hidden


def _sandwich(tape: Tape, hidden: Tensor, weights: LayerWeights, batch: Batch, caches: list[Tensor]) -> Tensor:
    norms = weights.shape.norms
    residual = hidden
    hidden = _norm(tape, hidden, weights, norms[0])
    hidden, probabilities = _attention(tape, hidden, weights, batch, caches)
    hidden = _norm(tape, hidden, weights, norms[1])
    hidden = add(tape, residual, hidden)
    residual = hidden
    hidden = _norm(tape, hidden, weights, norms[2])
    hidden = _mlp(tape, hidden, weights, batch)
    hidden = _norm(tape, hidden, weights, norms[3])
    hidden = add(tape, residual, hidden)
    del probabilities
    return hidden


def _parallel(tape: Tape, hidden: Tensor, weights: LayerWeights, batch: Batch, caches: list[Tensor]) -> Tensor:
    norms = weights.shape.norms
    normalised = _norm(tape, hidden, weights, norms[0])
    attended, probabilities = _attention(tape, normalised, weights, batch, caches)
    if weights.shape.residual is ResidualStyle.PARALLEL:
        normalised = _norm(tape, hidden, weights, norms[1])
    branch = _mlp(tape, normalised, weights, batch)
    del normalised
    result = add(tape, add(tape, branch, attended), hidden)
    del probabilities
    return result


def _norm(tape: Tape, hidden: Tensor, weights: LayerWeights, norm: Norm) -> Tensor:
    weight, bias = weights.norms[norm.name]
    return normalise(tape, hidden, weight, kind=norm.kind, size=norm.size, bias=bias)


def _attention(
    tape: Tape, hidden: Tensor, weights: LayerWeights, batch: Batch, caches: list[Tensor]
) -> tuple[Tensor, Tensor | None]:
    modules = AttentionWeights(linears=weights.linears, norms={name: pair[0] for name, pair in weights.norms.items()})
    hidden, probabilities = attention(tape, hidden, weights.shape.attention, modules, batch, caches)
    return _dropped(tape, hidden, weights, batch), probabilities


def _mlp(tape: Tape, hidden: Tensor, weights: LayerWeights, batch: Batch) -> Tensor:
    mlp = weights.shape.mlp
    if isinstance(mlp, MixtureOfExperts):
        assert weights.experts is not None
        return mixture(tape, hidden, mlp, weights.linears, weights.experts)
    return _dropped(tape, dense(tape, hidden, mlp, weights.linears), weights, batch)


def _dropped(tape: Tape, hidden: Tensor, weights: LayerWeights, batch: Batch) -> Tensor:
    return dropout(tape, hidden) if weights.shape.dropout and batch.trains else hidden
