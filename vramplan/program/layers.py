"""Tells the recorder which decoder layer is running, so that a trace of few layers can stand for many."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from vramplan.program.recorder import Recorder

NO_LAYER = -1
MODEL_STRIDE = 1000  # layers of the second model of a run are numbered from here
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


class Units:
    """How a model's layers are called in a record of several models.

    Args:
        number: of the model.
        unit_of_layer: its layers' units in a short trace; without them each layer stands for itself.
        num_left_out: units of the whole model that a short trace leaves out, all like unit 1.
    """

    def __init__(
        self, number: int = 0, unit_of_layer: Mapping[int, int] | None = None, *, num_left_out: int = 0
    ) -> None:
        self.base = number * MODEL_STRIDE
        self._units = unit_of_layer
        self._num_left_out = num_left_out

    def of(self, layer: int) -> int:
        """The recorded number of a layer."""
        if layer == NO_LAYER:
            return NO_LAYER
        return self.base + (layer if self._units is None else self._units[layer])

    def stands_for(self, layer: int) -> int:
        """How many layers of the whole model a traced one counts for where all of them are summed at once."""
        is_repeated = layer != NO_LAYER and self._units is not None and self._units[layer] == 1
        return 1 + self._num_left_out if is_repeated else 1


def watch_layers(model: Any, recorder: Recorder, units: Units) -> None:
    """Hooks the decoder layers of `model`.

    Args:
        model: with its layers in a list called `layers`, `h` or `blocks`, as in all of transformers' decoders.
        recorder: is told.
        units: what number stands for each layer.
    """
    layers = decoder_layers(model)
    last = max(layers, default=NO_LAYER)

    def before(_module: Any, _args: Any, number: int) -> None:
        recorder.layer_index, recorder.running = units.of(number), units
        if torch.is_grad_enabled() and torch._C._current_graph_task_id() == -1:
            recorder.layer_of_sequence.append((torch.autograd._get_sequence_nr(), units.of(number)))

    def after(_module: Any, _args: Any, _result: Any, number: int) -> None:
        if number == last and torch._C._current_graph_task_id() == -1:
            recorder.leave_layers()
            if torch.is_grad_enabled():
                recorder.layer_of_sequence.append((torch.autograd._get_sequence_nr(), NO_LAYER))

    for number, module in layers.items():
        module.register_forward_pre_hook(lambda m, a, number=number: before(m, a, number))
        module.register_forward_hook(lambda m, a, r, number=number: after(m, a, r, number))
