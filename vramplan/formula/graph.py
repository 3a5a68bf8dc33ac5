"""The graph that autograd records on a tape, and the engine that runs it backward.

Sources: torch/csrc/autograd/engine.cpp, input_buffer.cpp and functions/accumulate_grad.h (torch 2.13).
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Callable, Sequence
from typing import Union

from vramplan.dtypes import DType
from vramplan.formula.recompute import Held
from vramplan.formula.tape import Storage, Tape, Tensor


class Leaf:
    """A parameter's `.grad`, or the place where the gradient of a block's input arrives.

    Attributes:
        grad: what has been accumulated.
        num_uses: nodes of the graph that will send a gradient here.
        num_arrived: how many have.
        pending: their sum, held until all have: AccumulateGrad is a node like any other (a tied head's gradient waits
            for the embedding's).
        variable: the tensor whose gradient it is, if that has storage: AccumulateGrad keeps it alive.
    """

    __slots__ = ("grad", "num_arrived", "num_uses", "pending", "variable")

    def __init__(self, variable: Tensor | None = None) -> None:
        """Start without a gradient."""
        self.grad: Tensor | None = None
        self.variable = variable
        self.num_uses = self.num_arrived = 0
        self.pending: Tensor | None = None

    def receive(self, tape: Tape, grad: Tensor) -> None:
        """Sum what arrives, and accumulate the sum once it is whole."""
        self.num_arrived += 1
        if self.pending is not None:
            pending, self.pending = self.pending, None
            grad = _sum(tape, pending, grad)
        if self.num_arrived < self.num_uses:
            self.pending = grad
        else:
            self.num_arrived = 0
            self.accumulate(grad)

    def accumulate(self, grad: Tensor) -> None:
        """Keep the first gradient, add later ones in place (torch AccumulateGrad)."""
        if self.grad is None:
            self.grad = grad.detach()
            if grad.storage is not None:
                grad.storage.tape.owners[grad.storage.serial] = "gradients"


Edge = Union["Node", Leaf, None]
Grads = Sequence[Tensor | None]
Derivative = Callable[[Tensor], Grads]


class Node:
    """One step of the backward.

    Attributes:
        order: nodes run in the reverse order of their making.
        edges: where the gradient of each input goes; None for inputs without one.
        saved: what the derivative needs, kept until it has run.
        derivative: takes the gradient of the result, allocates what the kernel does, returns gradients of the inputs.
        component: who owns what it allocates.
        wanted: (elements, dtype) of each input that gets a gradient, where the derivative may return another: the
            engine sums and casts it (engine.cpp, validate_outputs).
        attributes: what a custom autograd function keeps on its context instead of saving it: checkpointing does not
            see it, and it lives as long as the graph.
    """

    __slots__ = ("attributes", "component", "derivative", "edges", "order", "saved", "wanted")

    def __init__(
        self, tape: Tape, edges: tuple[Edge, ...], saved: Sequence[Tensor | None], derivative: Derivative
    ) -> None:
        """Record what is saved through the checkpoint frame, if one is open."""
        self.order = tape.num_nodes
        tape.num_nodes += 1
        self.component = tape.component
        self.edges = edges
        frame = tape.frame
        if frame is None or frame.recomputed is None:  # the graph of a recomputation is never run
            for edge in edges:
                if edge.__class__ is Leaf:
                    edge.num_uses += 1
        self.derivative = derivative
        self.attributes: Tensor | None = None
        self.wanted: Sequence[tuple[int, DType]] | None = None
        self.saved: list[Tensor | Held] = []
        for tensor in saved:
            if tensor is not None:
                self.saved.append(tensor.detach() if frame is None else frame.pack(tensor))

    def save(self, tape: Tape, tensor: Tensor) -> None:
        """Keep a tensor until this node has run, or have it recomputed."""
        self.saved.append(tensor.detach() if tape.frame is None else tape.frame.pack(tensor))


class GatherNode(Node):
    """A node of several results (`.chunk()`): their gradients stay side by side until it runs."""

    __slots__ = ("pending",)

    def __init__(
        self, tape: Tape, edges: tuple[Edge, ...], saved: Sequence[Tensor | None], derivative: Derivative
    ) -> None:
        """See Node."""
        super().__init__(tape, edges, saved, derivative)
        self.pending: list[Tensor] = []


def apply(
    tape: Tape,
    numel: int,
    dtype: DType,
    inputs: Sequence[Tensor | None],
    saved: Sequence[Tensor | None],
    derivative: Derivative,
    *,
    saves_result: bool = False,
) -> Tensor:
    """Run an op: save its inputs, allocate its result, save that too if its derivative needs it.

    Inputs are saved before the kernel runs, so the early stop of a recomputation never makes the last result.

    Args:
        tape: where it allocates.
        numel, dtype: of the result.
        inputs: the differentiable inputs; the derivative returns one gradient (or None) for each.
        saved: the inputs that the derivative needs.
        derivative: see Node.
        saves_result: whether the derivative needs the result.
    """
    node = _node(tape, inputs, saved, derivative) if tape.grad_enabled else None
    result = Tensor(Storage(tape, numel * dtype.itemsize), numel, dtype, node)
    if saves_result and node is not None:
        node.save(tape, result)
    return result


def connect(
    tape: Tape, result: Tensor, inputs: Sequence[Tensor | None], saved: Sequence[Tensor | None], derivative: Derivative
) -> Tensor:
    """Give a result that exists already (a view, or the output of several kernels) its node."""
    if tape.grad_enabled:
        result.node = _node(tape, inputs, saved, derivative)
    return result


def _node(
    tape: Tape, inputs: Sequence[Tensor | None], saved: Sequence[Tensor | None], derivative: Derivative
) -> Node | None:
    """A node if any input needs a gradient."""
    edges: list[Edge] = []
    needed = False
    for tensor in inputs:
        edge: Edge = None
        if tensor is not None:
            edge = tensor.node or tensor.leaf
            if edge is not None:
                needed = True
        edges.append(edge)
    return Node(tape, tuple(edges), saved, derivative) if needed else None


def backward(tape: Tape, root: Tensor, *, boundaries: Sequence[int] = ()) -> list[int]:
    """Run every node below `root`, newest first, delivering gradients to leaves.

    Args:
        tape: where the derivatives allocate.
        root: the loss.
        boundaries: node counts, descending: where one block's nodes end and the one before it begins.

    Returns:
        For each boundary the number of actions when the nodes above it had run.
    """
    node = root.node
    assert node is not None, "the loss needs a gradient"
    return run_graph(tape, {node: tape.empty(root.numel, root.dtype)}, boundaries=boundaries)


def run_graph(tape: Tape, buffers: dict[Node, Tensor], *, boundaries: Sequence[int] = ()) -> list[int]:
    """The same from several nodes, each with the gradient of its result.

    Args:
        tape: where the derivatives allocate.
        buffers: the gradient of each node's result; emptied.
        boundaries: see `backward`.
    """
    ready = [(-node.order, node) for node in buffers]
    heapq.heapify(ready)
    marks: list[int] = []
    with tape.no_grad():
        while ready:
            node = heapq.heappop(ready)[1]
            while len(marks) < len(boundaries) and node.order < boundaries[len(marks)]:
                marks.append(len(tape.actions))
            _run(tape, node, buffers, ready)
    marks += [len(tape.actions)] * (len(boundaries) - len(marks))
    return marks


def _run(tape: Tape, node: Node, buffers: dict[Node, Tensor], ready: list[tuple[int, Node]]) -> None:
    before, tape.component = tape.component, node.component
    # The derivatives know the sizes of what was saved: it only has to live as long as they need it.
    kept = [item for item in node.saved if isinstance(item, Tensor)]
    held = [item.frame.unpack(item.index) for item in node.saved if isinstance(item, Held)]
    node.saved = []
    # What arrived lives while results are validated (engine.cpp, call_function: both are inside).
    arrived = None if node.wanted is None else buffers[node]
    grads = list(node.derivative(buffers.pop(node)))
    held.clear()  # nobody else has what a checkpoint made again; what was saved lives until the node is released
    if node.wanted is not None:
        _validate(tape, node.wanted, grads)
    del kept, held, arrived
    if isinstance(node, GatherNode):
        node.pending.clear()
    _deliver(tape, node.edges, grads, buffers, ready)
    tape.component = before


def _validate(tape: Tape, wanted: Sequence[tuple[int, DType]], grads: list[Tensor | None]) -> None:
    for index, (numel, dtype) in enumerate(wanted):
        grad, grads[index] = grads[index], None
        if grad is None:
            continue
        if grad.numel != numel:
            grad = tape.empty(numel, grad.dtype)
        if grad.dtype is not dtype:
            grad = tape.empty(numel, dtype)
        grads[index] = grad


def _deliver(
    tape: Tape,
    edges: tuple[Edge, ...],
    grads: list[Tensor | None],
    buffers: dict[Node, Tensor],
    ready: list[tuple[int, Node]],
) -> None:
    for index, edge in enumerate(edges):
        grad, grads[index] = grads[index], None
        if grad is None or edge is None:
            continue
        if isinstance(edge, Leaf):
            edge.receive(tape, grad)
        elif edge not in buffers:
            buffers[edge] = grad
            heapq.heappush(ready, (-edge.order, edge))
        elif isinstance(edge, GatherNode):
            edge.pending.append(grad)
        else:
            buffers[edge] = _sum(tape, buffers.pop(edge), grad)


def _sum(tape: Tape, old: Tensor, new: Tensor) -> Tensor:
    """Two gradients of one tensor: in place where nothing else refers to the older one's storage.

    torch/csrc/autograd/input_buffer.cpp: can_accumulate_inplace() asks for a sole owner of a dense storage.
    """
    for target in (old, new):
        if target.storage is not None and _sole_owner(target):
            return target
    return tape.empty(old.numel, old.dtype)


def _sole_owner(tensor: Tensor) -> bool:
    storage = tensor.storage
    assert storage is not None
    # Held by the tensor's slot, by the name above and by getrefcount's own argument.
    return sys.getrefcount(storage) <= 3 and storage.num_bytes == tensor.numel * tensor.dtype.itemsize
