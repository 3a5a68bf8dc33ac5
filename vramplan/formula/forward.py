"""One forward through a model on a tape, with marks where each layer begins and ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from vramplan.core.model import LayerShape, ModelShape
from vramplan.core.run import AttentionImplementation
from vramplan.dtypes import DType
from vramplan.formula.attention import Batch
from vramplan.formula.block import LayerWeights, run_layer
from vramplan.formula.linear import linear
from vramplan.formula.logits import final_norm
from vramplan.formula.modules import Modules
from vramplan.formula.norms import normalise
from vramplan.formula.ops import add, dropout, scale
from vramplan.formula.tape import Grads, Leaf, Tape, Tensor, apply, checkpoint


@dataclass(slots=True, kw_only=True)
class Sampled:
    """The layers that stand for all: the first, the last, and one of each kind between.

    Args:
        layers: what is traced, in order.
        stands_for: for each layer of the model the index of the traced one.
    """

    layers: list[LayerShape]
    stands_for: list[int]


def sample(model: ModelShape) -> Sampled:
    """Pick the layers to trace: what comes before and after a layer of one kind does not change what it does."""
    layers = model.layers
    total = len(layers)
    if total <= 2:
        return Sampled(layers=list(layers), stands_for=list(range(total)))
    # Readers repeat one object for equal layers, and comparing layers field by field is slow.
    middle: dict[int, int] = {}
    picked = [layers[0]]
    for layer in layers[1:-1]:
        if id(layer) not in middle:
            middle[id(layer)] = len(picked)
            picked.append(layer)
    picked.append(layers[-1])
    stands_for = [0, *[middle[id(layer)] for layer in layers[1:-1]], len(picked) - 1]
    return Sampled(layers=picked, stands_for=stands_for)


@dataclass(slots=True, kw_only=True)
class Trunk:
    """What a forward through the layers leaves.

    Args:
        hidden: after the final norm.
        batch: positions and masks, which checkpointed layers keep.
        marks: event counts: when the first layer began, and when each ended.
        nodes: node counts at the same places.
        kept: what the training loop still refers to during the backward.
    """

    hidden: Tensor
    batch: Batch
    marks: list[int]
    nodes: list[int]
    kept: list[Tensor] = field(default_factory=list)


def embed(tape: Tape, model: ModelShape, modules: Modules, batch: Batch, *, input_needs_grad: bool) -> Tensor:
    """Token embedding, learned positions, scaling and norm, up to the first layer."""
    weight = modules.embed(model)
    tokens = model.embeddings[0]
    numel = batch.num_tokens * tokens.embedding_dim
    weight_numel, dtype = weight.numel, weight.dtype

    def derivative(_grad: Tensor) -> Grads:
        # embedding_dense_backward sorts the ids: two int64 copies beside the zeroed gradient.
        grad_weight = tape.empty(weight_numel, dtype)
        ids = [tape.empty(batch.num_tokens, DType.INT64) for _ in range(2)]
        del ids
        return (grad_weight,)

    ids = tape.empty(batch.num_tokens, DType.INT64)
    hidden = apply(tape, numel, dtype, (weight,), (ids,), derivative)
    if input_needs_grad and hidden.node is None:
        hidden.leaf = Leaf()
    if model.embedding_multiplier:
        hidden = scale(tape, hidden)
    if model.projection_in is not None:
        hidden = linear(tape, hidden, modules.linear(model.projection_in))
    for _positions in model.embeddings[1:]:
        hidden = add(tape, hidden, tape.empty(batch.num_tokens * model.hidden_size, dtype))
    if model.embedding_dropout and batch.trains:
        hidden = dropout(tape, hidden)
    if model.embedding_norm is not None:
        weight, bias = modules.norm(model.embedding_norm)
        norm = model.embedding_norm
        hidden = normalise(tape, hidden, weight, kind=norm.kind, size=norm.size, bias=bias)
    return hidden


def trunk(
    tape: Tape,
    model: ModelShape,
    modules: Modules,
    batch: Batch,
    layers: list[LayerWeights],
    *,
    checkpoints: bool,
    input_needs_grad: bool,
    caches: list[list[Tensor]] | None = None,
) -> Trunk:
    """Everything before the head.

    Args:
        tape: where it allocates.
        model: the model.
        modules: its weights.
        batch: rows and tokens; positions and masks are added to it.
        layers: the layers to run, in order.
        checkpoints: whether each layer keeps only its input.
        input_needs_grad: whether the embedding's output is made to need a gradient (LoRA under checkpointing).
        caches: for each layer its key and value tensors, replaced as they grow; None without a cache.
    """
    hidden = embed(tape, model, modules, batch, input_needs_grad=input_needs_grad)
    positions(tape, model, batch, hidden.dtype)
    marks, nodes = [len(tape.events)], [tape.num_nodes]
    for index, layer in enumerate(layers):
        layer_caches = caches[index] if caches else []
        if checkpoints:
            assert hidden.storage is not None
            tape.owners[hidden.storage.serial] = "checkpoints"
            hidden = checkpoint(tape, _bound(tape, layer, batch, layer_caches), hidden)
        else:
            hidden = run_layer(tape, hidden, layer, batch, layer_caches)
        marks.append(len(tape.events))
        nodes.append(tape.num_nodes)
    hidden = final_norm(tape, hidden, model, modules.head(model))
    return Trunk(hidden=hidden, batch=batch, marks=marks, nodes=nodes)


def _bound(tape: Tape, layer: LayerWeights, batch: Batch, caches: list[Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda hidden: run_layer(tape, hidden, layer, batch, caches)


def positions(tape: Tape, model: ModelShape, batch: Batch, dtype: DType) -> None:
    """cos and sin of rotary positions, and eager attention's additive mask, both made once for all layers."""
    attention = model.layers[0].attention
    if attention.rotary_dim:
        angles = batch.tokens * attention.rotary_dim
        batch.rotary = tape.empty(2 * angles, dtype)
    if batch.implementation is AttentionImplementation.EAGER:
        with tape.owner("attention"):
            batch.mask = tape.empty(batch.rows * batch.tokens * batch.key_tokens, dtype)
