"""One decoder layer: how norms, attention and feed-forward are wired, with the lifetimes of its local variables.

Source: transformers 5.23.0 models/*/modeling_*.py, the DecoderLayer of each.
"""

from __future__ import annotations

from dataclasses import dataclass

from vramplan.core.model import LayerShape, MixtureOfExperts, Mlp, Norm, ResidualStyle
from vramplan.formula.attention import AttentionWeights, attention
from vramplan.formula.batch import Batch, LayerInputs
from vramplan.formula.experts import ExpertWeights, mixture
from vramplan.formula.linear import Weights
from vramplan.formula.mlp import dense, plain
from vramplan.formula.norms import add_residual, normalise
from vramplan.formula.ops import add, add_in_place, dropout
from vramplan.formula.tape import Tape, Tensor


@dataclass(slots=True, kw_only=True)
class LayerWeights:
    """The modules of one layer, ready to run.

    Args:
        shape: the layer.
        linears: projections by name.
        norms: (weight, bias) by name.
        experts: the routed experts' weights, None for a dense layer.
        sinks: learned sink logits, or None.
    """

    shape: LayerShape
    linears: dict[str, Weights]
    norms: dict[str, tuple[Tensor, Tensor | None]]
    experts: ExpertWeights | None = None
    sinks: Tensor | None = None


@dataclass(slots=True, kw_only=True)
class Layer:
    """A layer in one forward: everything that its parts need."""

    tape: Tape
    weights: LayerWeights
    batch: Batch
    inputs: LayerInputs
    caches: list[Tensor]

    def norm(self, hidden: Tensor, index: int) -> Tensor:
        """The layer's `index`-th norm."""
        norm: Norm = self.weights.shape.norms[index]
        weight, bias = self.weights.norms[norm.name]
        return normalise(self.tape, hidden, weight, kind=norm.kind, size=norm.size, bias=bias)

    def attention(self, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        """Self-attention and the dropout behind it."""
        weights = self.weights
        modules = AttentionWeights(
            linears=weights.linears,
            norms={name: pair[0] for name, pair in weights.norms.items()},
            sinks=weights.sinks,
        )
        hidden, probabilities = attention(
            self.tape, hidden, weights.shape.attention, modules, self.batch, self.inputs, self.caches
        )
        return self._dropped(hidden), probabilities

    def mlp(self, hidden: Tensor) -> Tensor:
        """The feed-forward block and the dropout behind it."""
        mlp = self.weights.shape.mlp
        if isinstance(mlp, MixtureOfExperts):
            assert self.weights.experts is not None
            return mixture(self.tape, hidden, mlp, self.weights.linears, self.weights.experts, self.inputs.code)
        return self._dropped(dense(self.tape, hidden, mlp, self.weights.linears))

    def inlined_mlp(self, owned: list[Tensor]) -> Tensor:
        """A feed-forward without a module of its own, and its dropout; takes the hidden states out of `owned`."""
        mlp = self.weights.shape.mlp
        assert isinstance(mlp, Mlp)
        return self._dropped(plain(self.tape, owned, mlp, self.weights.linears))

    def _dropped(self, hidden: Tensor) -> Tensor:
        return dropout(self.tape, hidden) if self.weights.shape.dropout and self.batch.trains else hidden


def run_layer(
    tape: Tape, hidden: Tensor, weights: LayerWeights, batch: Batch, inputs: LayerInputs, caches: list[Tensor]
) -> tuple[Tensor, Tensor | None]:
    """`decoder_layer(hidden)`.

    Args:
        tape: where it allocates.
        hidden: the residual stream.
        weights: the layer.
        batch: rows, tokens.
        inputs: positions, mask.
        caches: where key and value caches are kept.

    Returns:
        The residual stream, and the attention weights, or keys and values, where the layer returns them.
    """
    style = weights.shape.residual
    if batch.returns_keys:
        caches = []  # this call's own
    layer = Layer(tape=tape, weights=weights, batch=batch, inputs=inputs, caches=caches)
    if inputs.code.returns_weights:
        return _falcon(layer, hidden)
    if style is ResidualStyle.PARALLEL:
        return _parallel(layer, hidden), None
    if style is ResidualStyle.PARALLEL_SHARED:
        return _parallel_shared(layer, hidden), None
    if style is ResidualStyle.SANDWICH:
        return _sandwich(layer, hidden), None
    if style is ResidualStyle.POST_NORM:
        return _post_norm(layer, hidden), None
    hidden = _pre_norm(layer, hidden)
    return hidden, caches[0] if batch.returns_keys else None


def _pre_norm(layer: Layer, hidden: Tensor) -> Tensor:
    tape, shape = layer.tape, layer.weights.shape
    residual = hidden
    hidden = layer.norm(hidden, 0)
    hidden, probabilities = layer.attention(hidden)
    branch = hidden if layer.inputs.code.keeps_branch else None
    hidden = add_residual(tape, residual, hidden, multiplier=shape.residual_multiplier)
    residual = hidden
    if layer.inputs.code.inlines_mlp:
        hidden = layer.inlined_mlp([layer.norm(hidden, 1)])
    else:
        hidden = layer.norm(hidden, 1)
        hidden = layer.mlp(hidden)
    hidden = add_residual(tape, residual, hidden, multiplier=shape.residual_multiplier)
    del probabilities, branch  # the decoder layer's `_` holds them until it returns
    return hidden


def _post_norm(layer: Layer, hidden: Tensor) -> Tensor:
    residual = hidden
    hidden, probabilities = layer.attention(hidden)
    hidden = add(layer.tape, residual, hidden)
    hidden = layer.norm(hidden, 0)
    residual = hidden
    hidden = layer.mlp(hidden)
    hidden = add(layer.tape, residual, hidden)
    hidden = layer.norm(hidden, 1)
    del probabilities
    return hidden


def _sandwich(layer: Layer, hidden: Tensor) -> Tensor:
    residual = hidden
    hidden = layer.norm(hidden, 0)
    hidden, probabilities = layer.attention(hidden)
    hidden = layer.norm(hidden, 1)
    hidden = add(layer.tape, residual, hidden)
    residual = hidden
    hidden = layer.norm(hidden, 2)
    hidden = layer.mlp(hidden)
    hidden = layer.norm(hidden, 3)
    hidden = add(layer.tape, residual, hidden)
    del probabilities
    return hidden


def _parallel(layer: Layer, hidden: Tensor) -> Tensor:
    """gpt_neox: two norms of one input."""
    attended, probabilities = layer.attention(layer.norm(hidden, 0))
    branch = layer.mlp(layer.norm(hidden, 1))
    result = add(layer.tape, add(layer.tape, branch, attended), hidden)
    del probabilities
    return result


def _parallel_shared(layer: Layer, hidden: Tensor) -> Tensor:
    """phi: one norm feeds both."""
    residual = hidden
    hidden = layer.norm(hidden, 0)
    attended, probabilities = layer.attention(hidden)
    branch = layer.mlp(hidden)
    result = add(layer.tape, add(layer.tape, attended, branch), residual)
    del probabilities
    return result


def _falcon(layer: Layer, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
    """Every intermediate has a name of its own; the branches are summed in place."""
    tape, style = layer.tape, layer.weights.shape.residual
    normalised = layer.norm(hidden, 0)
    second = layer.norm(hidden, 1) if style is ResidualStyle.PARALLEL else normalised
    attended, probabilities = layer.attention(normalised)
    residual = hidden
    if style is ResidualStyle.PRE_NORM:
        residual = add(tape, residual, attended)
        second = layer.norm(residual, 1)
        return add(tape, residual, layer.mlp(second)), probabilities
    branch = add_in_place(tape, layer.mlp(second), attended)
    return add(tape, residual, branch), probabilities
