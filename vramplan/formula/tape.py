"""A tape of allocations: what autograd keeps, frees and allocates while a block of a model runs forward and backward.

No tensor has data here, only a size, a dtype and an owner. The rules are PyTorch's own: a result is allocated when an op
runs, freed when nothing refers to it; a node keeps what its derivative needs until it has run; gradients of one tensor
are summed in place where autograd may. CPython frees a tensor when its last reference goes, as it does in PyTorch, so the
blocks in this package are written in the order and with the variable lifetimes of the modules they stand for.

The tape itself is the flat list of ints that `vramplan.allocator.replay` takes: `+n` asks for n bytes and gets the next
serial number, `-(k + 1)` frees serial k.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Union

from vramplan.dtypes import DType


class Tape:
    """Everything that has been allocated so far, and the modes that decide what the next op does.

    Attributes:
        events: requests and frees, in order.
        owners: the component of each serial.
        grad_enabled: whether ops record nodes.
        autocast: the dtype that matrix multiplications run in, or None.
        component: who owns what is allocated next.
    """

    __slots__ = ("autocast", "cast_cache", "component", "events", "frame", "grad_enabled", "num_nodes", "owners")

    def __init__(self) -> None:
        """Start with nothing allocated, gradients on, autocast off."""
        self.events: list[int] = []
        self.owners: list[str] = []
        self.grad_enabled = True
        self.autocast: DType | None = None
        self.cast_cache: dict[int, Tensor] = {}
        self.component = "activations"
        self.frame: Frame | None = None
        self.num_nodes = 0

    def empty(self, numel: int, dtype: DType) -> Tensor:
        """A new tensor of its own storage."""
        return Tensor(Storage(self, numel * dtype.itemsize), numel, dtype)

    def scratch(self, num_bytes: int) -> Storage:
        """Bytes that are no tensor: workspaces and kernel temporaries."""
        return Storage(self, num_bytes)

    @contextmanager
    def owner(self, component: str) -> Iterator[None]:
        """Allocate for `component` inside the block."""
        before, self.component = self.component, component
        try:
            yield
        finally:
            self.component = before

    @contextmanager
    def no_grad(self) -> Iterator[None]:
        """Record no nodes inside the block."""
        before, self.grad_enabled = self.grad_enabled, False
        try:
            yield
        finally:
            self.grad_enabled = before

    @contextmanager
    def autocasting(self, dtype: DType | None) -> Iterator[None]:
        """Autocast to `dtype`; cached weight casts go when the outermost region ends."""
        before, self.autocast = self.autocast, dtype
        try:
            yield
        finally:
            self.autocast = before
            if before is None:
                self.cast_cache.clear()


class Storage:
    """One block of device memory, freed with its last reference."""

    __slots__ = ("num_bytes", "serial", "tape")

    def __init__(self, tape: Tape, num_bytes: int) -> None:
        """Ask for `num_bytes`; zero bytes are no allocation, as in PyTorch."""
        self.tape = tape
        self.num_bytes = num_bytes
        if num_bytes:
            self.serial = len(tape.owners)
            tape.owners.append(tape.component)
            tape.events.append(num_bytes)
        else:
            self.serial = -1

    def __del__(self) -> None:
        if self.serial >= 0:
            self.tape.events.append(-1 - self.serial)


class Tensor:
    """A view of a storage with a place in the graph.

    Attributes:
        storage: what it is a view of; None for tensors that are counted elsewhere (weights).
        numel: elements.
        dtype: their type.
        node: what made it, if that needs a gradient.
        leaf: where its gradient accumulates, if it is a leaf that needs one.
    """

    __slots__ = ("__weakref__", "dtype", "leaf", "node", "numel", "storage")

    def __init__(
        self,
        storage: Storage | None,
        numel: int,
        dtype: DType,
        node: Node | None = None,
        leaf: Leaf | None = None,
    ) -> None:
        """See the class."""
        self.storage = storage
        self.numel = numel
        self.dtype = dtype
        self.node = node
        self.leaf = leaf

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient flows to or through it."""
        return self.node is not None or self.leaf is not None

    def view(self, numel: int | None = None) -> Tensor:
        """The same storage with another shape, made by the same node."""
        return Tensor(self.storage, self.numel if numel is None else numel, self.dtype, self.node, self.leaf)

    def detach(self) -> Tensor:
        """The same storage without a place in the graph."""
        return Tensor(self.storage, self.numel, self.dtype)


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
        attributes: what a custom autograd function keeps on its context instead of saving it: checkpointing does not see
            it, and it lives as long as the graph.
    """

    __slots__ = ("attributes", "component", "derivative", "edges", "order", "saved")

    def __init__(
        self, tape: Tape, edges: tuple[Edge, ...], saved: Sequence[Tensor | None], derivative: Derivative
    ) -> None:
        """Record what is saved through the checkpoint frame, if one is open."""
        self.order = tape.num_nodes
        tape.num_nodes += 1
        self.component = tape.component
        self.edges = edges
        if tape.frame is None or tape.frame.recomputed is None:  # the graph of a recomputation is never run
            for edge in edges:
                if isinstance(edge, Leaf):
                    edge.num_uses += 1
        self.derivative = derivative
        self.attributes: Tensor | None = None
        self.saved: list[Tensor | Held] = []
        for tensor in saved:
            if tensor is not None:
                self.save(tape, tensor)

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


class StopRecomputation(Exception):  # noqa: N818  (it is control flow, as torch's _StopRecomputationError)
    """Every saved tensor has been recomputed: the rest of the block need not run."""


class Held:
    """Stands for a tensor that a checkpointed block saved, and will recompute."""

    __slots__ = ("frame", "index")

    def __init__(self, frame: Frame, index: int) -> None:
        """The `index`-th tensor that the block of `frame` saves."""
        self.frame = frame
        self.index = index


class Frame:
    """One checkpointed block: non-reentrant torch.utils.checkpoint.

    The first forward saves nothing and counts; the first unpack runs the block again and stops when the last tensor that
    was saved is there again (early stop).
    """

    __slots__ = ("autocast", "num_saved", "recomputed", "rerun", "tape")

    def __init__(self, tape: Tape, rerun: Callable[[], object]) -> None:
        """`rerun` runs the block again."""
        self.tape = tape
        self.rerun = rerun
        self.num_saved = 0
        self.recomputed: dict[int, Tensor] | None = None
        self.autocast = tape.autocast

    def pack(self, tensor: Tensor) -> Tensor | Held:
        """Count the tensor in the first forward; keep it when recomputing."""
        if self.recomputed is None:
            held = Held(self, self.num_saved)
            self.num_saved += 1
            return held
        self.recomputed[len(self.recomputed)] = tensor.detach()
        if len(self.recomputed) == self.num_saved:
            raise StopRecomputation
        return tensor.detach()

    def unpack(self, index: int) -> Tensor:
        """The `index`-th saved tensor, recomputing all of them when it is the first asked for."""
        if self.recomputed is None:
            self._recompute()
        assert self.recomputed is not None
        return self.recomputed.pop(index)

    def _recompute(self) -> None:
        tape = self.tape
        self.recomputed = _Counting()
        before_frame, before_grad = tape.frame, tape.grad_enabled
        tape.frame, tape.grad_enabled = self, True
        try:
            with tape.autocasting(self.autocast):
                self.rerun()
        except StopRecomputation as stop:
            stop.__traceback__ = None  # the block's locals must die here, as they do in torch
        finally:
            tape.frame, tape.grad_enabled = before_frame, before_grad


class _Counting(dict[int, Tensor]):
    """A dict whose len() is how many were ever put in, so that unpacking does not disturb the numbering."""

    __slots__ = ("num_put",)

    def __init__(self) -> None:
        super().__init__()
        self.num_put = 0

    def __setitem__(self, key: int, value: Tensor) -> None:
        super().__setitem__(key, value)
        self.num_put += 1

    def __len__(self) -> int:
        return self.num_put


Block = Callable[[Tensor], "tuple[Tensor, Tensor | None]"]
"""A decoder layer: hidden states in, hidden states and perhaps attention weights out."""


def checkpoint(tape: Tape, block: Block, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
    """Run `block` and keep only its input, as each layer does under gradient checkpointing."""
    frame = Frame(tape, lambda: block(hidden))
    before, tape.frame = tape.frame, frame
    try:
        return block(hidden)
    finally:
        tape.frame = before


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
    node = None
    if tape.grad_enabled:
        edges = tuple([None if tensor is None else tensor.node or tensor.leaf for tensor in inputs])
        if any(edges):
            node = Node(tape, edges, saved, derivative)
    result = Tensor(Storage(tape, numel * dtype.itemsize), numel, dtype, node)
    if saves_result and node is not None:
        node.save(tape, result)
    return result


def connect(
    tape: Tape, result: Tensor, inputs: Sequence[Tensor | None], saved: Sequence[Tensor | None], derivative: Derivative
) -> Tensor:
    """Give a result that exists already (a view, or the output of several kernels) its node."""
    if tape.grad_enabled:
        edges = tuple([None if tensor is None else tensor.node or tensor.leaf for tensor in inputs])
        if any(edges):
            result.node = Node(tape, edges, saved, derivative)
    return result


def backward(tape: Tape, root: Tensor, *, boundaries: Sequence[int] = ()) -> list[int]:
    """Run every node below `root`, newest first, delivering gradients to leaves.

    Args:
        tape: where the derivatives allocate.
        root: the loss.
        boundaries: node counts, descending: where one block's nodes end and the one before it begins.

    Returns:
        For each boundary the number of events when the nodes above it had run.
    """
    node = root.node
    assert node is not None, "the loss needs a gradient"
    buffers: dict[Node, Tensor] = {node: tape.empty(root.numel, root.dtype)}
    ready = [(-node.order, node)]
    marks: list[int] = []
    with tape.no_grad():
        while ready:
            node = heapq.heappop(ready)[1]
            while len(marks) < len(boundaries) and node.order < boundaries[len(marks)]:
                marks.append(len(tape.events))
            _run(tape, node, buffers, ready)
    marks += [len(tape.events)] * (len(boundaries) - len(marks))
    return marks


def _run(tape: Tape, node: Node, buffers: dict[Node, Tensor], ready: list[tuple[int, Node]]) -> None:
    with tape.owner(node.component):
        held = [item.frame.unpack(item.index) if isinstance(item, Held) else item for item in node.saved]
        node.saved = []
        grads = node.derivative(buffers.pop(node))
        del held
        if isinstance(node, GatherNode):
            node.pending.clear()
        _deliver(tape, node.edges, list(grads), buffers, ready)


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
