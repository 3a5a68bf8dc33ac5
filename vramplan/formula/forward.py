"""One forward through a model on a tape, with marks where each layer begins and ends."""

from __future__ import annotations

from dataclasses import dataclass, field

from vramplan.core.model import LayerShape, ModelShape
from vramplan.dtypes import DType
from vramplan.formula.batch import Batch, LayerInputs
from vramplan.formula.block import LayerWeights, run_layer
from vramplan.formula.code import code_of
from vramplan.formula.graph import Grads, Leaf, apply
from vramplan.formula.linear import linear
from vramplan.formula.logits import final_norm
from vramplan.formula.masks import kind_of, layer_inputs
from vramplan.formula.modules import Modules
from vramplan.formula.norms import normalise
from vramplan.formula.ops import add, dropout, scale
from vramplan.formula.recompute import Block, Checkpoint
from vramplan.formula.tape import Tape, Tensor


@dataclass(slots=True, kw_only=True)
class Sampled:
    """The layers that stand for all: the first, the last, and one of each kind between.

    Args:
        layers: what is traced, in order.
        stands_for: for each layer of the model the index of the traced one.
    """

    layers: list[LayerShape]
    stands_for: list[int]


def sample(model: ModelShape, *, first_trained: int = 0) -> Sampled:
    """Pick the layers to trace: what comes before and after a layer of one kind does not change what it does.

    Args:
        model: its layers.
        first_trained: the first layer of which anything trains. Up to it no hidden states need a gradient, unlike those
            that a later layer of the same kind is given.
    """
    layers = model.layers
    total = len(layers)
    if total <= 2:
        return Sampled(layers=list(layers), stands_for=list(range(total)))
    # Readers repeat one object for equal layers, and comparing layers field by field is slow.
    middle: dict[tuple[int, bool], int] = {}
    picked = [layers[0]]
    kinds = [(id(layer), index > first_trained) for index, layer in enumerate(layers[1:-1], start=1)]
    for kind, layer in zip(kinds, layers[1:-1], strict=True):
        if kind not in middle:
            middle[kind] = len(picked)
            picked.append(layer)
    picked.append(layers[-1])
    return Sampled(layers=picked, stands_for=[0, *[middle[kind] for kind in kinds], len(picked) - 1])


@dataclass(slots=True, kw_only=True)
class Trunk:
    """What a forward through the layers leaves.

    Args:
        hidden: after the final norm.
        batch: rows and tokens.
        marks: counts of actions: when the first layer began, and when each ended.
        nodes: node counts at the same places.
        kept: what the training loop still refers to during the backward.
        returned: what the model's outputs hold beside logits.
    """

    hidden: Tensor
    batch: Batch
    marks: list[int]
    nodes: list[int]
    kept: list[Tensor] = field(default_factory=list)
    returned: list[Tensor] = field(default_factory=list)


def embed(
    tape: Tape, model: ModelShape, modules: Modules, batch: Batch, *, input_needs_grad: bool
) -> tuple[Tensor, list[Tensor]]:
    """Token embedding, learned positions, scaling and norm, up to the first layer.

    Returns:
        The hidden states, and what the model's forward refers to until it returns.
    """
    hidden = _lookup(tape, modules.embed(model), batch, model.embeddings[0].embedding_dim, rows=batch.rows)
    scales_inside = code_of(model.model_type).scales_in_embedding
    if model.embedding_multiplier and scales_inside:
        hidden = scale(tape, hidden)
    if input_needs_grad and hidden.node is None:
        hidden.leaf = Leaf(hidden.detach())
    if model.embedding_multiplier and not scales_inside:
        hidden = scale(tape, hidden)
    if model.projection_in is not None:
        hidden = linear(tape, hidden, modules.linear(model.projection_in))
    kept = [hidden, tape.empty(batch.tokens, DType.INT64)]
    for positions in model.embeddings[1:]:
        rows = batch.rows if code_of(model.model_type).positions_per_row else 1
        table = modules.position_embedding(positions)
        kept.append(_lookup(tape, table, batch, positions.embedding_dim, rows=rows))
        hidden = add(tape, hidden, kept[-1])
    if model.embedding_dropout and batch.trains:
        hidden = dropout(tape, hidden)
    if model.embedding_norm is not None:
        weight, bias = modules.norm(model.embedding_norm)
        norm = model.embedding_norm
        hidden = normalise(tape, hidden, weight, kind=norm.kind, size=norm.size, bias=bias)
    return hidden, kept


UNSORTED_LIMIT = 3072
"""Embedding.cu embedding_dense_backward_cuda: fewer ids than this are not sorted."""
ROWS_PER_THREAD = 10
"""EmbeddingBackwardKernel.cu NROWS_PER_THREAD."""


def _lookup(tape: Tape, weight: Tensor, batch: Batch, width: int, *, rows: int) -> Tensor:
    """`torch.nn.Embedding`: its derivative sums rows of the gradient into zeros, by sorted ids where there are many."""
    ids = rows * batch.tokens
    weight_numel, dtype = weight.numel, weight.dtype

    def derivative(_grad: Tensor) -> Grads:
        if ids <= UNSORTED_LIMIT:
            return (tape.empty(weight_numel, dtype),)
        sorting = [tape.empty(ids, DType.INT64) for _ in range(2)]
        grad_weight = tape.empty(weight_numel, dtype)
        segments = min(ids, weight_numel // width)
        partial = ids // ROWS_PER_THREAD + segments
        sums = [tape.empty(size, DType.INT64) for size in (segments, segments, segments, partial)]
        sums.append(tape.empty(partial * width, DType.FP32))
        del sorting, sums
        return (grad_weight,)

    return apply(tape, ids * width, dtype, (weight,), (tape.empty(ids, DType.INT64),), derivative)


def trunk(
    tape: Tape,
    model: ModelShape,
    modules: Modules,
    batch: Batch,
    layers: list[LayerWeights],
    *,
    checkpoint: Checkpoint | None,
    input_needs_grad: bool,
    caches: list[list[Tensor]] | None = None,
) -> Trunk:
    """Everything before the head.

    Args:
        tape: where it allocates.
        model: the model.
        modules: its weights.
        batch: rows and tokens.
        layers: the layers to run, in order.
        checkpoint: what runs each layer and keeps only its input, or None.
        input_needs_grad: whether the embedding's output is made to need a gradient (LoRA under checkpointing).
        caches: for each layer its key and value tensors, replaced as they grow; None without a cache.
    """
    hidden, _kept = embed(tape, model, modules, batch, input_needs_grad=input_needs_grad)
    inputs = layer_inputs(tape, model, batch, modules.embed(model).dtype)
    marks, nodes = [len(tape.actions)], [tape.num_nodes]
    outputs: tuple[Tensor, Tensor | None] = (hidden, None)
    returned: list[Tensor] = []
    for index, layer in enumerate(layers):
        block = _bound(tape, layer, batch, inputs[kind_of(layer.shape.attention)], caches[index] if caches else [])
        if checkpoint is not None:
            assert hidden.storage is not None
            tape.owners[hidden.storage.serial] = "checkpoints"
            outputs = checkpoint(tape, block, hidden)
        else:
            outputs = block(hidden)
        hidden = outputs[0]
        if batch.returns_keys and outputs[1] is not None:
            returned.append(outputs[1])
        marks.append(len(tape.actions))
        nodes.append(tape.num_nodes)
    hidden = final_norm(tape, hidden, model, modules.head(model))
    return Trunk(hidden=hidden, batch=batch, marks=marks, nodes=nodes, returned=returned)


def _bound(tape: Tape, layer: LayerWeights, batch: Batch, inputs: LayerInputs, caches: list[Tensor]) -> Block:
    return lambda hidden: run_layer(tape, hidden, layer, batch, inputs, caches)
