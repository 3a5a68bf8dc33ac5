"""Tells the recorder which decoder layer is running, so that a trace of few layers can stand for many."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from vramplan.program.recorder import NO_LAYER, Recorder

_LAYER_PATH = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)(?:\.|$)")


def layer_number(path: str) -> int:
    """The decoder layer that a module path lies in, or NO_LAYER."""
    match = _LAYER_PATH.search(path)
    return int(match.group(1)) if match else NO_LAYER


def decoder_layers(model: Any) -> dict[int, Any]:
    """Number to module of each decoder layer."""
    found: dict[int, Any] = {}
    for path, module in model.named_modules():
        match = _LAYER_PATH.search(path)
        if match and match.end() == len(path):
            found[int(match.group(1))] = module
    return found


def watch_layers(model: Any, recorder: Recorder, unit_of_layer: Mapping[int, int] | None = None) -> None:
    """Hooks the decoder layers of `model`.

    Args:
        model: with its layers in a list called `layers`, `h` or `blocks`, as in all of transformers' decoders.
        recorder: is told.
        unit_of_layer: what number stands for each layer; itself without one.
    """
    layers = decoder_layers(model)
    units = {number: unit_of_layer[number] if unit_of_layer else number for number in layers}
    last = max(layers, default=NO_LAYER)

    def before(_module: Any, _args: Any, number: int) -> None:
        recorder.layer_index = units[number]
        if torch.is_grad_enabled() and torch._C._current_graph_task_id() == -1:
            recorder.layer_of_sequence.append((torch.autograd._get_sequence_nr(), units[number]))

    def after(_module: Any, _args: Any, _result: Any, number: int) -> None:
        if number == last and torch._C._current_graph_task_id() == -1:
            recorder.leave_layers()
            if torch.is_grad_enabled():
                recorder.layer_of_sequence.append((torch.autograd._get_sequence_nr(), NO_LAYER))

    for number, module in layers.items():
        module.register_forward_pre_hook(lambda m, a, number=number: before(m, a, number))
        module.register_forward_hook(lambda m, a, r, number=number: after(m, a, r, number))
