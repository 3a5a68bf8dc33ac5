"""What the phases of a run tell of themselves: to a recorder of fake tensors, or to a device's counters."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


class Watch(Protocol):
    """What looks on while a phase runs: the recorder of fake tensors, or a device's counters.

    Args:
        device: where tensors are made.
        is_real: whether tensors have values and memory.
        owner: what is being made, where the program knows: `weights`, `adapters`, or "".
        layer_index: the decoder layer that it is made for.
    """

    device: torch.device
    is_real: bool
    owner: str
    layer_index: int

    def fill(self, tensor: Any) -> None:
        """Gives a new tensor values, where tensors have any: token ids to whole numbers, weights to the others."""

    def watch_model(self, model: Any, name: str, units: Any) -> None:
        """A model has come onto the device for the first time."""

    def mark(self, phase: str) -> None:
        """A phase begins."""

    def on_host(self) -> AbstractContextManager[None]:
        """Tensors made inside live in host memory."""

    def optimizing(self) -> AbstractContextManager[None]:
        """What is made inside are states of an optimizer."""

    def enter_layer(self, layer: int) -> None:
        """What follows works for a decoder layer."""

    def leave_layers(self) -> None:
        """What follows works for no layer."""

    def own(self, tensors: Iterable[Any], owner: str) -> None:
        """Says what tensors are."""

    def own_activations(self, owner: str) -> None:
        """Says what all tensors of decoder layers are that have no name yet."""
