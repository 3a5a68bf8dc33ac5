"""The phases of a run as real torch code, written once: the same functions run on fake tensors and on a device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from vramplan.core.run import Training
from vramplan.program.load import torch_dtype
from vramplan.program.optimizers import make_optimizer
from vramplan.program.watch import Watch

_MAX_GRAD_NORM = 1.0  # TrainingArguments.max_grad_norm


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """How the training loop around a step is written: it decides what is alive beside the step itself.

    Args:
        style: `trainer`: only the loss leaves the function that ran the forward; `step`: the outputs stay alive
            until the function that makes a step returns, through backward and update; `plain`: until they are
            assigned anew, into the next forward as well.
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

    def __init__(self, rows: int, tokens: int, watch: Watch) -> None:
        self.input_ids = torch.zeros((rows, tokens), dtype=torch.int64, device=watch.device)
        watch.fill(self.input_ids)
        self.attention_mask = torch.ones((rows, tokens), dtype=torch.int64, device=watch.device)
        self.labels = torch.zeros((rows, tokens), dtype=torch.int64, device=watch.device)


def autocast(training: Training | None, device_type: str) -> AbstractContextManager[Any]:
    """The autocast region that `training` asks for."""
    if training is None or training.mixed_precision is None:
        return nullcontext()
    region: AbstractContextManager[Any] = torch.autocast(device_type, dtype=torch_dtype(training.mixed_precision))
    return region


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


class Trainer:
    """The training loop around one model.

    Args:
        model: ready to train.
        training: what a step does.
        watch: is told of each phase: `forward`, `backward`, `optimizer`.
        loop: how the loop is written.
    """

    def __init__(self, model: Any, training: Training, watch: Watch, *, loop: Loop) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        with watch.optimizing():
            # transformers 5.23 trainer.py 1328-1338: embeddings keep fp32 states
            embeddings = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
            self._optimizer = make_optimizer(
                training.optim,
                self._parameters,
                None if watch.is_real else watch.on_host,
                {id(module.weight) for module in embeddings} if loop.style == "trainer" else (),
            )
        self._training = training
        self._watch = watch
        self._loop = loop
        self._alive: Any = None
        self.forward = wrap_forward(model, training, watch.device.type, fp32_outputs=loop.fp32_outputs)

    def micro_step(self, loss_of: Callable[[Callable[..., Any]], Any], *, updates: bool) -> None:
        """A forward and a backward, and an update if it is time for one.

        Args:
            loss_of: given the wrapped forward, returns (what stays alive, the loss).
            updates: whether the optimizer steps.
        """
        self._watch.mark("forward")
        if self._loop.style == "trainer":
            loss = loss_of(self.forward)[1]
        else:
            self._alive, loss = loss_of(self.forward)
        if self._training.gradient_checkpointing:
            self._watch.own_activations("checkpoints")
        self._watch.mark("backward")
        if self._training.gradient_accumulation_steps > 1:
            loss = loss / self._training.gradient_accumulation_steps
        loss.backward()
        del loss
        self._watch.own((parameter.grad for parameter in self._parameters), "gradients")
        if updates:
            self._watch.mark("optimizer")
            if self._loop.clip:
                torch.nn.utils.clip_grad_norm_(self._parameters, _MAX_GRAD_NORM, foreach=True)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=self._loop.zero_gradients == "none")
        if self._loop.style == "step":
            self._alive = None


def sft_loss(batch: Callable[[], Batch]) -> Callable[[Callable[..., Any]], Any]:
    """The loss of supervised fine-tuning: the model's own, over all tokens."""

    def loss_of(forward: Callable[..., Any]) -> Any:
        inputs = batch()
        outputs = forward(
            input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, labels=inputs.labels, use_cache=False
        )
        return outputs, outputs.loss

    return loss_of


def score(model: Any, rows: int, tokens: int, watch: Watch, phase: str = "score") -> None:
    """One forward that returns the logits of every token; a plain call fills a cache as well."""
    watch.mark(phase)
    batch = Batch(rows, tokens, watch)
    with torch.no_grad():
        outputs = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    watch.own(_cached(getattr(outputs, "past_key_values", None)), "kv_cache")
    del outputs


def generate(
    model: Any,
    rows: int,
    prompt_tokens: int,
    completion_tokens: int,
    watch: Watch,
    *,
    phases: tuple[str, str] = ("prefill", "decode"),
    through: Callable[..., Any] | None = None,
) -> None:
    """Prefill, then the last decode step at full cache, as transformers' generate runs them.

    Args:
        model: what generates.
        rows: sequences at once.
        prompt_tokens: of each.
        completion_tokens: of each.
        watch: looks on.
        phases: what the two are called.
        through: the forward to call, where it is wrapped.
    """
    from transformers import DynamicCache

    forward = through or model
    with torch.no_grad():
        watch.mark(phases[0])
        batch = Batch(rows, prompt_tokens, watch)
        cache = DynamicCache(config=model.config)
        step = {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
        outputs = forward(input_ids=batch.input_ids, attention_mask=batch.attention_mask, **step)
        _sample(outputs)
        del outputs
        watch.own(_cached(cache), "kv_cache")
        watch.mark(phases[1])
        _lengthen(cache, completion_tokens - 2, watch)
        last = Batch(rows, 1, watch)
        num_tokens = prompt_tokens + completion_tokens - 1
        mask = torch.ones((rows, num_tokens), dtype=torch.int64, device=watch.device)
        outputs = forward(input_ids=last.input_ids, attention_mask=mask, **step)
        _sample(outputs)
        watch.own(_cached(cache), "kv_cache")
        del outputs


def _sample(outputs: Any) -> None:
    """generation/utils.py: fp32 scores of the last token, and their probabilities."""
    scores = outputs.logits[:, -1, :].to(copy=True, dtype=torch.float32)
    _probabilities = torch.softmax(scores, dim=-1)


def _cached(cache: Any) -> list[Any]:
    layers = getattr(cache, "layers", None) or []
    return [tensor for layer in layers for tensor in (layer.keys, layer.values)]


def _lengthen(cache: Any, num_tokens: int, watch: Watch) -> None:
    """Appends `num_tokens` of keys and values to each layer, as that many decode steps would have."""
    if num_tokens <= 0:
        return
    for index, layer in enumerate(cache.layers):
        watch.enter_layer(index)
        keys, values = (old.new_empty((*old.shape[:2], num_tokens, old.shape[3])) for old in (layer.keys, layer.values))
        cache.update(keys, values, index)
        del keys, values
    watch.leave_layers()
    watch.own(_cached(cache), "kv_cache")
