"""What older transformers did with logits, put into the installed version's models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from vramplan.core.stack import Stack
from vramplan.formula.code import code_of


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitsCode:
    """How a causal language model gets from its head to its loss.

    Args:
        upcasts: the model itself returns fp32 logits when it trains (transformers before 4.45).
        shifts: the loss copies the fp32 logits without the last token instead of shifting the labels (before 4.49).
        some_keep_16_bits: gpt2, gpt_neox, opt, falcon and gpt_bigcode take the loss of 16-bit logits (before 4.49).
    """

    upcasts: bool = False
    shifts: bool = False
    some_keep_16_bits: bool = False

    @classmethod
    def of(cls, stack: Stack) -> LogitsCode:
        """What the stack's transformers does."""
        return cls(
            upcasts=stack.model_upcasts_logits,
            shifts=stack.loss_shifts_logits,
            some_keep_16_bits=not stack.every_loss_upcasts,
        )

    def put_into(self, model: Any) -> None:
        """Changes a model, or peft's around it, that trains."""
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        keeps = self.some_keep_16_bits and code_of(base.config.model_type).own_loss
        if self.upcasts and not keeps:
            base.get_output_embeddings().register_forward_hook(lambda _module, _args, logits: logits.float())
        if keeps:
            base.loss_function = _shifted_loss
        elif self.shifts:
            base.loss_function = _upcast_loss


def _upcast_loss(logits: Any, labels: Any, vocab_size: int, **_: Any) -> Any:
    logits = logits.float()
    return _shifted_loss(logits, labels, vocab_size)


def _shifted_loss(logits: Any, labels: Any, vocab_size: int, **_: Any) -> Any:
    shifted_logits = logits[..., :-1, :].contiguous()
    shifted_labels = labels[..., 1:].contiguous()
    return torch.nn.functional.cross_entropy(shifted_logits.view(-1, vocab_size), shifted_labels.view(-1))
