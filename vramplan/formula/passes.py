"""The passes of a run on a tape: a forward without gradients, and a training step."""

from __future__ import annotations

from collections.abc import Callable

from vramplan.core.model import ModelShape
from vramplan.dtypes import DType
from vramplan.formula.batch import Batch
from vramplan.formula.code import code_of
from vramplan.formula.forward import Sampled, Trunk, sample, trunk
from vramplan.formula.graph import backward
from vramplan.formula.kv_cache import cache_elements
from vramplan.formula.layout import Layout, Piece, pieces_of
from vramplan.formula.modules import Modules
from vramplan.formula.recompute import Checkpoint
from vramplan.formula.tape import Tape, Tensor
from vramplan.formula.traced import Traced

Head = Callable[[Tape, Trunk], Tensor]
"""Makes the loss (or the answer) from the trunk; what it adds to `kept` outlives it."""

INPUTS = ("input_ids", "attention_mask", "labels")


def trace_step(
    model: ModelShape,
    modules: Modules,
    batch: Batch,
    head: Head,
    *,
    autocast: DType | None,
    checkpoint: Checkpoint | None,
) -> Traced:
    """Trace the forward and backward of one micro-batch.

    Args:
        model: what trains.
        modules: its weights.
        batch: rows and tokens.
        head: makes the loss.
        autocast: the mixed-precision dtype, or None.
        checkpoint: how each layer is checkpointed, or None.
    """
    tape = Tape()
    sampled = sample(model, first_trained=0 if checkpoint else modules.first_trained(model))
    layers = [modules.layer(layer) for layer in sampled.layers]
    inputs = [tape.empty(batch.num_tokens, DType.INT64) for _ in INPUTS]
    with tape.autocasting(autocast):
        step = trunk(
            tape,
            model,
            modules,
            batch,
            layers,
            checkpoint=checkpoint,
            input_needs_grad=checkpoint is not None and not modules.trains,
        )
        loss = head(tape, step)
    forward_marks, nodes = step.marks, step.nodes
    step.hidden = loss
    backward_marks = backward(tape, loss, boundaries=nodes[::-1])
    del step, loss, inputs
    return _traced(tape, pieces_of(tape, forward_marks, backward_marks), sampled)


def trace_forward(model: ModelShape, modules: Modules, batch: Batch, head: Head, *, autocast: DType | None) -> Traced:
    """Trace a forward without gradients, over a cache of `batch.past_tokens` if the batch caches."""
    tape = Tape()
    sampled = sample(model)
    layers = [modules.layer(layer) for layer in sampled.layers]
    caches: list[list[Tensor]] | None = None
    cache_marks = [0]
    if batch.caches:
        caches = []
        for layer in sampled.layers:
            with tape.owner("kv_cache"):
                numels = cache_elements(layer.attention, batch, code_of(model.model_type)) if batch.past_tokens else ()
                caches.append([tape.empty(numel, modules.load.dtype) for numel in numels])
            cache_marks.append(len(tape.actions))
    inputs = [tape.empty(batch.num_tokens, DType.INT64) for _ in INPUTS[:2]]
    with tape.no_grad(), tape.autocasting(autocast):
        step = trunk(tape, model, modules, batch, layers, checkpoint=None, input_needs_grad=False, caches=caches)
        step.hidden = head(tape, step)
    marks = step.marks
    del step, inputs, caches
    return _traced(tape, pieces_of(tape, marks, (), cache_marks=cache_marks), sampled)


def _traced(tape: Tape, pieces: tuple[Piece, ...], sampled: Sampled) -> Traced:
    layout = Layout(
        actions=tuple(tape.actions),
        owners=tuple(tape.owners),
        pieces=pieces,
        stands_for=tuple(sampled.stands_for),
    )
    return Traced(layout=layout, sizes=tuple(tape.sizes))
