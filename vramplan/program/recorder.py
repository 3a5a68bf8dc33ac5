"""Watches every operator on fake tensors and writes down the storages that appear and die."""

from __future__ import annotations

import bisect
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vramplan.program.extend import extend
from vramplan.program.labels import ModuleStack, describe
from vramplan.program.layers import MODEL_STRIDE, NO_LAYER, Units, watch_layers
from vramplan.program.trace import FakeTrace, Label

Kernel = Callable[..., Any]

_aten = torch.ops.aten
# What takes a cuBLAS handle, and with it a workspace.
_MATMULS = frozenset(
    {_aten.mm.default, _aten.addmm.default, _aten.bmm.default, _aten.baddbmm.default, _aten._grouped_mm.default}
    if hasattr(_aten, "_grouped_mm")
    else {_aten.mm.default, _aten.addmm.default, _aten.bmm.default, _aten.baddbmm.default}
)
_ADD = _aten.add.Tensor
_TO_COPY = _aten._to_copy.default
_PARAMETERS = ("weights", "adapters")
_LIFT_FRESH = _aten.lift_fresh.default
_NOWHERE = (None, NO_LAYER, -1)
_NO_SEQUENCE = 1 << 62  # AccumulateGrad nodes carry the highest number there is
_USES_OF_A_BUFFER = 4  # of a gradient that nothing but the engine holds, as seen here (torch 2.13); 5 if something does
_ITEM = _aten._local_scalar_dense.default


class Recorder(TorchDispatchMode):  # type: ignore[misc]
    """A dispatch mode that turns storages into events.

    Args:
        kernels: operators that CUDA computes with more allocations than their outputs, as torch code that allocates
            what the CUDA kernel does.
        cublas_workspace_bytes: of one cuBLAS handle. The thread that runs the forward has one, autograd's another
            (CublasHandlePool.cpp keeps them per thread); both live until the process ends.
        with_labels: whether to note where each allocation comes from (slower).
    """

    def __init__(self, *, kernels: Mapping[Any, Kernel], cublas_workspace_bytes: int, with_labels: bool) -> None:
        super().__init__()
        self.device = torch.device("cpu")  # of fake tensors
        self.is_real = False
        self.events: list[int] = []
        self.marks: list[tuple[str, int]] = []
        self.labels: list[Label] = []
        self.owners: list[str] = []
        self.owner = ""
        self.modules = ModuleStack()
        self.has_padding = False
        self.layers: list[int] = []
        self.layer_index = NO_LAYER
        self.running: Any = None
        self.layer_of_sequence: list[tuple[int, int]] = []
        self._kernels = kernels
        self._workspace_bytes = cublas_workspace_bytes
        self._handles = [False, False]
        self._with_labels = with_labels
        self._alive: dict[int, tuple[Any, int, int]] = {}
        self._in_optimizer = False
        self._in_backward = False
        self._sequence_of_backward = _NO_SEQUENCE
        self._stepped = NO_LAYER
        self._leaving = False
        self._num_serials = 0
        self._on_host = 0

    def trace(self) -> FakeTrace:
        """All that was recorded so far."""
        return FakeTrace(events=self.events, marks=self.marks, labels=self.labels, owners=self.owners)

    def close(self) -> None:
        """Nothing that happens from here on belongs to the run."""
        self._alive = {}
        self.events, self.layers = list(self.events), list(self.layers)

    def extended(self, num_units: Sequence[int]) -> FakeTrace:
        """The record with the two middle units of each model's layers repeated.

        Args:
            num_units: per model how many units it has, 0 where all its layers were traced.

        Raises:
            NotRepeating: the middle units of a model differ.
        """
        events, units, marks = self.events, self.layers, self.marks
        origin = list(range(len(self.owners)))
        for number, count in enumerate(num_units):
            if not count:
                continue
            base = number * MODEL_STRIDE
            own = [unit - base if base <= unit < base + MODEL_STRIDE else NO_LAYER for unit in units]
            longer = extend(events, own, num_units=count)
            marks = [
                (name, longer.index_of[at] if at < len(longer.index_of) else len(longer.events)) for name, at in marks
            ]
            units = [units[at] for at in longer.source]
            origin = [origin[serial] for serial in longer.origin]
            events = longer.events
        return FakeTrace(
            events=events,
            marks=marks,
            labels=[self.labels[serial] for serial in origin] if self.labels else [],
            owners=[self.owners[serial] for serial in origin],
        )

    def mark(self, phase: str) -> None:
        """A phase begins; a name that was used before gets `.2`, `.3`, … behind it."""
        earlier = sum(1 for name, _ in self.marks if name.split(".")[0] == phase)
        self.marks.append((f"{phase}.{earlier + 1}" if earlier else phase, len(self.events)))
        self.layer_index = NO_LAYER
        self._leaving = False
        self._stepped = NO_LAYER
        self._in_optimizer = phase == "optimizer"
        self.owner = "optimizer" if self._in_optimizer else ""
        self._in_backward = phase == "backward"
        if self._in_backward:
            self._sequence_of_backward = torch.autograd._get_sequence_nr()

    def fill(self, tensor: Any) -> None:
        """Fake tensors have no values."""

    def watch_model(self, model: Any, name: str, units: Units) -> None:
        """Follows the model's layers and modules from here on."""
        if model not in self.modules:
            watch_layers(model, self, units)
            self.modules.name_modules(model, name)

    @contextmanager
    def optimizing(self) -> Iterator[None]:
        """What is made inside are states of an optimizer: of the layer of the parameter they are like."""
        before = self._in_optimizer, self.owner
        self._in_optimizer, self.owner = True, "optimizer"
        try:
            yield
        finally:
            self._in_optimizer, self.owner = before

    def enter_layer(self, layer: int) -> None:
        """What follows works for a decoder layer of the model whose forward ran last."""
        self.layer_index = self.running.of(layer) if self.running is not None else NO_LAYER

    def leave_layers(self) -> None:
        """The last layer is done: what dies before the next operator still belongs to it."""
        self._leaving = True

    @contextmanager
    def on_host(self) -> Iterator[None]:
        """Tensors made here live in host memory: they are not recorded."""
        self._on_host += 1
        try:
            yield
        finally:
            self._on_host -= 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operator and records the storages of its outputs."""
        if self._leaving:
            self._leaving, self.layer_index = False, NO_LAYER
        if func is _ADD and torch._C._current_graph_task_id() != -1:
            summed = _engine_sum(args)
            if summed is not None:
                return summed
        if func is _ITEM:
            return self._assumed_value(args[0])
        if self._on_host or (self._in_optimizer and func is _LIFT_FRESH):  # step counters stay on the host
            return func(*args, **(kwargs or {}))
        if func in _MATMULS:
            self._take_cublas_handle()
        kernel = self._kernels.get(func)
        if kernel is not None:
            with self:
                return kernel(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self._note(result, func, args, self._layer(args))
        elif isinstance(result, (tuple, list)):
            for position, item in enumerate(result):
                if isinstance(item, torch.Tensor):
                    self._note(item, func, args, self._layer(args, position))
        return result

    def _layer(self, args: Any, position: int = 0) -> int:
        """The decoder layer that the running operator works for."""
        if self._in_optimizer:  # an optimizer walks over parameters: a state belongs to its parameter's layer
            first = args[0] if args else None
            if isinstance(first, (list, tuple)):
                first = first[position] if position < len(first) else None
            if isinstance(first, torch.Tensor):
                self._stepped = self._alive.get(first.untyped_storage()._cdata, _NOWHERE)[1]
            return self._stepped
        if self.layer_of_sequence and torch._C._current_graph_task_id() != -1:
            node = torch._C._current_autograd_node()
            number = node._sequence_nr() if node is not None else _NO_SEQUENCE
            if number < self._sequence_of_backward:  # a reentrant checkpoint's own graph is younger, and of its layer
                found = bisect.bisect_right(self.layer_of_sequence, (number, _NO_SEQUENCE)) - 1
                self.layer_index = self.layer_of_sequence[found][1] if found >= 0 else NO_LAYER
        return self.layer_index

    def _assumed_value(self, tensor: Any) -> bool | int | float:
        """What code is told that looks at a value: whether all tokens count; that nothing overflows; one."""
        if tensor.dtype is torch.bool:
            return not self.has_padding
        return 1.0 if tensor.is_floating_point() else 1

    def _note(self, tensor: Any, func: Any, args: Any, layer: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        num_bytes = storage.nbytes()
        if num_bytes == 0:
            return  # the allocator returns no block for an empty request
        serial = self._allocate(num_bytes, layer)
        if func is _TO_COPY and not self.owner and self._source_owner(args) in _PARAMETERS:
            self.owners[serial] = "autocast"
        if self._with_labels:
            self.labels.append(describe(func, tensor, self.modules.innermost))

        def free(_: Any, key: int = key, serial: int = serial, layer: int = layer) -> None:
            del self._alive[key]
            self.events.append(-(serial + 1))
            if self._in_backward and torch._C._current_graph_task_id() == -1:
                self.layer_index = NO_LAYER  # the engine is done: a graph dies
            # Outside layers, lists of tensors die (caches, temporaries of an update): each belongs to its own layer.
            self.layers.append(layer if self.layer_index == NO_LAYER else self.layer_index)

        self._alive[key] = (weakref.ref(storage, free), layer, serial)

    def own(self, tensors: Iterable[Any], owner: str) -> None:
        """Says what tensors are that already exist: `gradients`, `kv_cache`."""
        for tensor in tensors:
            if isinstance(tensor, torch.Tensor):
                serial = self._alive.get(tensor.untyped_storage()._cdata, _NOWHERE)[2]
                if serial >= 0:
                    self.owners[serial] = owner

    def own_activations(self, owner: str) -> None:
        """Says what all tensors of decoder layers are that nothing has a name for yet."""
        for _, layer, serial in self._alive.values():
            if layer != NO_LAYER and not self.owners[serial]:
                self.owners[serial] = owner

    def _source_owner(self, args: Any) -> str:
        serial = self._alive.get(args[0].untyped_storage()._cdata, _NOWHERE)[2]
        return self.owners[serial] if serial >= 0 else ""

    def _allocate(self, num_bytes: int, layer: int) -> int:
        serial = self._num_serials
        self._num_serials += 1
        self.events.append(num_bytes)
        self.layers.append(layer)
        self.owners.append(self.owner)
        return serial

    def _take_cublas_handle(self) -> None:
        in_backward = torch._C._current_graph_task_id() != -1
        if not self._handles[in_backward] and self._workspace_bytes:
            self._handles[in_backward] = True
            self._allocate(self._workspace_bytes, NO_LAYER)
            if self._with_labels:
                thread = "autograd" if in_backward else "main"
                self.labels.append(
                    Label(
                        operation=f"kernel: cuBLAS workspace, {thread} thread", module="", source="", shape=(), dtype=""
                    )
                )


def _engine_sum(args: Any) -> Any:
    """The autograd engine's sum of two gradients, in place as on plain tensors, or None where it makes a new one.

    The engine adds into the buffer whose storage nobody else holds, the older first (input_buffer.cpp, `accumulate`),
    but never when one is a tensor subclass, as fake tensors are. A storage count of 2 is the tensor and the Python
    object asked here; checked against the profiler's `aten::add_` of a plain CPU run (torch 2.13). The gradients that a
    reentrant checkpoint hands on to its own graph are held by the Python code that does so as well.
    """
    if torch.is_grad_enabled():
        return None  # code of a recomputed forward, or of a double backward
    for candidate in args[:2]:
        if not isinstance(candidate, torch.Tensor):
            return None
    for candidate in args[:2]:
        shared = torch._C._storage_Use_Count(candidate.untyped_storage()._cdata) != 2
        if not shared and candidate._use_count() <= _USES_OF_A_BUFFER:
            return candidate
    return None
