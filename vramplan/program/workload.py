"""The phases of a run as real torch code, written once: the same functions run on fake tensors and on a device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from vramplan.core.run import Training
from vramplan.program.load import torch_dtype
from vramplan.program.optimizers import make_optimizer

_MAX_GRAD_NORM = 1.0  # TrainingArguments.max_grad_norm


class Watch(Protocol):
    """What looks on while a phase runs: the recorder of fake tensors, or a device's counters."""

    def mark(self, phase: str) -> None:
        """A phase begins."""

    def on_host(self) -> AbstractContextManager[None]:
        """Tensors made inside live in host memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """How the training loop around a step is written: it decides what is alive beside the step itself.

    Args:
        style: `trainer`: only the loss leaves the function that ran the forward; `plain`: the outputs stay alive
            through the backward and into the next forward, until they are assigned anew.
        zero_gradients: `none` frees gradients after the update, `zero` fills them with zeros and keeps them.
        clip: whether gradients are clipped to norm 1 before the update, as the Trainer does by default.
        padded: whether batches hold padding: transformers then keeps the attention mask it otherwise drops.
        fp32_outputs: whether accelerate's convert_outputs_to_fp32 wraps the forward under mixed precision.
    """

    style: str = "trainer"
    zero_gradients: str = "none"
    clip: bool = True
    padded: bool = False
    fp32_outputs: bool = True


class Batch:
    """Token ids, an attention mask and labels of one micro-batch."""

    def __init__(self, rows: int, tokens: int) -> None:
        self.input_ids = torch.zeros((rows, tokens), dtype=torch.int64)
        self.attention_mask = torch.ones((rows, tokens), dtype=torch.int64)
        self.labels = torch.zeros((rows, tokens), dtype=torch.int64)


def autocast(training: Training | None, device_type: str) -> AbstractContextManager[Any]:
    """The autocast region that `training` asks for."""
    if training is None or training.mixed_precision is None:
        return nullcontext()
    return torch.autocast(device_type, dtype=torch_dtype(training.mixed_precision))


def wrap_forward(model: Any, training: Training | None, device_type: str, *, fp32_outputs: bool) -> Callable[..., Any]:
    """The model's forward as accelerate's prepare_model wraps it."""
    if training is None or training.mixed_precision is None:
        return model.__call__  # type: ignore[no-any-return]

    def forward(**inputs: Any) -> Any:
        with autocast(training, device_type):
            return model(**inputs)

    if not fp32_outputs:
        return forward
    from accelerate.utils.operations import convert_outputs_to_fp32

    converted: Callable[..., Any] = convert_outputs_to_fp32(forward)
    return converted


def train(
    model: Any, training: Training, watch: Watch, *, loss_of: Callable[[Callable[..., Any], int], Any],
    num_micro_steps: int, loop: Loop, device_type: str,
) -> None:  # fmt: skip
    """Micro-steps of forward and backward, with an optimizer update each `gradient_accumulation_steps`.

    Args:
        model: ready to train.
        training: what the step does.
        watch: is told of each phase: `forward`, `backward`, `optimizer`.
        loss_of: given the wrapped forward and the micro-step's number, returns (what stays alive, the loss).
        num_micro_steps: how many forwards to run.
        loop: how the loop is written.
        device_type: `cpu` or `cuda`.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(training.optim, parameters, watch.on_host)
    forward = wrap_forward(model, training, device_type, fp32_outputs=loop.fp32_outputs)
    alive: Any = None
    for micro_step in range(num_micro_steps):
        watch.mark("forward")
        if loop.style == "plain":
            alive, loss = loss_of(forward, micro_step)
        else:
            loss = loss_of(forward, micro_step)[1]
        watch.mark("backward")
        if training.gradient_accumulation_steps > 1:
            loss = loss / training.gradient_accumulation_steps
        loss.backward()
        loss = loss.detach()
        if (micro_step + 1) % training.gradient_accumulation_steps == 0:
            watch.mark("optimizer")
            if loop.clip:
                torch.nn.utils.clip_grad_norm_(parameters, _MAX_GRAD_NORM, foreach=True)
            optimizer.step()
            optimizer.zero_grad(set_to_none=loop.zero_gradients == "none")
    del alive


def sft_loss(batch: Callable[[], Batch]) -> Callable[[Callable[..., Any], int], Any]:
    """The loss of supervised fine-tuning: the model's own, over all tokens."""

    def loss_of(forward: Callable[..., Any], _micro_step: int) -> Any:
        inputs = batch()
        outputs = forward(
            input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, labels=inputs.labels, use_cache=False
        )
        return outputs, outputs.loss

    return loss_of


def score(model: Any, batch: Batch, watch: Watch) -> None:
    """One forward that returns the logits of every token; a plain call fills a cache as well."""
    watch.mark("score")
    with torch.no_grad():
        outputs = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    del outputs


def generate(model: Any, rows: int, prompt_tokens: int, completion_tokens: int, watch: Watch) -> None:
    """Prefill, then the last decode step at full cache, as transformers' generate runs them."""
    from transformers import DynamicCache

    with torch.no_grad():
        watch.mark("prefill")
        batch = Batch(rows, prompt_tokens)
        cache = DynamicCache(config=model.config)
        outputs = model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        del outputs
        watch.mark("decode")
        _lengthen(cache, completion_tokens - 2)
        last = Batch(rows, 1)
        mask = torch.ones((rows, prompt_tokens + completion_tokens - 1), dtype=torch.int64)
        outputs = model(
            input_ids=last.input_ids, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        del outputs


def _lengthen(cache: Any, num_tokens: int) -> None:
    """Appends `num_tokens` of keys and values to each layer, as that many decode steps would have."""
    if num_tokens <= 0:
        return
    for index, layer in enumerate(cache.layers):
        keys = layer.keys
        more = keys.new_empty((keys.shape[0], keys.shape[1], num_tokens, keys.shape[3]))
        values = layer.values.new_empty((*layer.values.shape[:2], num_tokens, layer.values.shape[3]))
        cache.update(more, values, index)
        del keys, more, values
