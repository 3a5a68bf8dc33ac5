"""Says where an allocation was made, in words of the model and its source files."""

from __future__ import annotations

import sys
from pathlib import PurePath
from types import FrameType
from typing import Any

import torch

from vramplan.program.trace import Label

_PLUMBING = ("/torch/", "/vramplan/program/recorder", "/vramplan/program/labels", "<")


def describe(func: Any, tensor: Any, module_names: dict[int, str]) -> Label:
    """The label of a tensor that operator `func` has just made.

    Args:
        func: the operator.
        tensor: what it returned.
        module_names: `id` of a module to its path.
    """
    module, source = "", ""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and not (module and source):
        filename = frame.f_code.co_filename
        if not module:
            owner = frame.f_locals.get("self")
            if isinstance(owner, torch.nn.Module):
                module = module_names.get(id(owner), type(owner).__name__)
        if not source and not any(part in filename for part in _PLUMBING):
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
