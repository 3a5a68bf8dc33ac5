"""What older transformers did with logits, put into the installed version's models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from vramplan.core.stack import Stack


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitsCode:
    """How a causal language model gets from its head to its loss.

    Args:
        upcasts: the model itself returns fp32 logits when it trains (transformers before 4.45).
        shifts: the loss copies the fp32 logits without the last token instead of shifting the labels (before 4.49).
    """

    upcasts: bool = False
    shifts: bool = False

    @classmethod
    def of(cls, stack: Stack) -> LogitsCode:
        """What the stack's transformers does."""
        return cls(upcasts=stack.model_upcasts_logits, shifts=stack.loss_shifts_logits)

    def put_into(self, model: Any) -> None:
        """Changes a model, or peft's around it, that trains."""
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        if self.upcasts:
            base.get_output_embeddings().register_forward_hook(lambda _module, _args, logits: logits.float())
        if self.shifts:
            base.loss_function = _shifted_loss


def _shifted_loss(logits: Any, labels: Any, vocab_size: int, **_: Any) -> Any:
    logits = logits.float()
    shifted_logits = logits[..., :-1, :].contiguous()
    shifted_labels = labels[..., 1:].contiguous()
    return torch.nn.functional.cross_entropy(shifted_logits.view(-1, vocab_size), shifted_labels.view(-1))
