"""Says where an allocation was made, in words of the model and its source files."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath
from types import FrameType
from typing import Any

import torch

from vramplan.program.trace import Label

_PLUMBING = ("/torch/", "/vramplan/program/recorder", "/vramplan/program/labels", "<")


class ModuleStack:
    """The modules whose forwards are running, innermost last.

    Frames could tell as well, but asking a frame for its locals keeps them alive: the record would be wrong.
    """

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._running: list[int] = []

    def name_modules(self, model: Any, name: str) -> None:
        """Gives the modules of a model their paths; its own is `name`."""
        self._names.update({id(module): path for path, module in model.named_modules()})
        self._names[id(model)] = name

    def __contains__(self, model: Any) -> bool:
        return id(model) in self._names

    @property
    def innermost(self) -> str:
        """Path of the innermost running module, or ""."""
        return self._names.get(self._running[-1], "") if self._running else ""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Follows the forwards of all modules."""

        def before(module: Any, _args: Any) -> None:
            self._running.append(id(module))

        def after(module: Any, _args: Any, _result: Any) -> None:
            while self._running and self._running.pop() != id(module):
                pass  # modules that an exception left, as checkpointing's early stop

        hooks = [
            torch.nn.modules.module.register_module_forward_pre_hook(before),
            torch.nn.modules.module.register_module_forward_hook(after, always_call=True),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def describe(func: Any, tensor: Any, module: str) -> Label:
    """The label of a tensor that operator `func` has just made while `module` ran."""
    source = ""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and not source:
        filename = frame.f_code.co_filename
        if not any(part in filename for part in _PLUMBING):
            source = f"{PurePath(filename).name}:{frame.f_lineno}"
        frame = frame.f_back
    if torch._C._current_graph_task_id() != -1:
        node = torch._C._current_autograd_node()
        where = f"backward of {node.name()}" if node is not None else "backward"
        module = f"{where} {module}".strip()
    return Label(
        operation=str(func).removeprefix("aten."),
        module=module,
        source=source,
        shape=tuple(tensor.shape),
        dtype=str(tensor.dtype).removeprefix("torch."),
    )
