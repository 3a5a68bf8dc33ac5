"""A tape of allocations: what autograd keeps, frees and allocates while a block of a model runs forward and backward.

No tensor has data here, only a size, a dtype and an owner. The rules are PyTorch's own: a result is allocated when an
op runs, freed when nothing refers to it; a node keeps what its derivative needs until it has run; gradients of one
tensor are summed in place where autograd may. CPython frees a tensor when its last reference goes, as it does in
PyTorch, so the blocks here are written in the order and with the variable lifetimes of the modules they stand for.

What happens is a flat list of ints: k asks for the bytes of serial k, and `-1 - k` gives them back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vramplan.dtypes import DType

if TYPE_CHECKING:
    from vramplan.formula.graph import Leaf, Node
    from vramplan.formula.recompute import Frame


class Tape:
    """Everything that has been allocated so far, and the modes that decide what the next op does.

    Attributes:
        actions: requests and frees, in order.
        sizes: the bytes of each serial.
        owners: the component of each serial.
        grad_enabled: whether ops record nodes.
        autocast: the dtype that matrix multiplications run in, or None.
        component: who owns what is allocated next.
    """

    __slots__ = (
        "actions",
        "autocast",
        "cast_cache",
        "component",
        "frame",
        "grad_enabled",
        "num_nodes",
        "owners",
        "sizes",
    )

    def __init__(self) -> None:
        """Start with nothing allocated, gradients on, autocast off."""
        self.actions: list[int] = []
        self.sizes: list[int] = []
        self.owners: list[str] = []
        self.grad_enabled = True
        self.autocast: DType | None = None
        self.cast_cache: dict[int, tuple[Leaf, Tensor]] = {}  # by the leaf's id, and with it: ids are used again
        self.component = "activations"
        self.frame: Frame | None = None
        self.num_nodes = 0

    @property
    def events(self) -> list[int]:
        """The same as `vramplan.allocator.replay` takes it: n asks for n bytes, `-1 - k` gives serial k back."""
        return events_of(self.actions, self.sizes)

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


def events_of(actions: Iterable[int], sizes: Sequence[int]) -> list[int]:
    """Actions with bytes in place of serials."""
    return [sizes[action] if action >= 0 else action for action in actions]


class Storage:
    """One block of device memory, freed with its last reference."""

    __slots__ = ("num_bytes", "serial", "tape")

    def __init__(self, tape: Tape, num_bytes: int) -> None:
        """Ask for `num_bytes`; zero bytes are no allocation, as in PyTorch."""
        self.tape = tape
        self.num_bytes = num_bytes
        if num_bytes:
            self.serial = serial = len(tape.owners)
            tape.owners.append(tape.component)
            tape.sizes.append(num_bytes)
            tape.actions.append(serial)
        else:
            self.serial = -1

    def __del__(self) -> None:
        if self.serial >= 0:
            self.tape.actions.append(-1 - self.serial)


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
