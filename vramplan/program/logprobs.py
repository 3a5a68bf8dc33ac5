"""Log-probabilities of completion tokens as TRL and RLT take them, on a real model's outputs.

Behaviour read in TRL trainer/utils.py and trainer/grpo_trainer.py (0.14 to 1.16) and in RLT trainers/grpo.py (86a3f5c).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

import torch

from vramplan.core.stack import Stack
from vramplan.errors import CannotTellError
from vramplan.formula.logprobs import LogProbCode, code_of
from vramplan.program.workload import Batch

_TEMPERATURE = 0.9  # any: TRL divides whatever it is
_FUSED_VOCABULARY = 32768  # _CHUNKED_LOGPROB_CHUNK_SIZE in TRL 1.16 trainer/utils.py


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """How tokens are scored.

    Args:
        code: which code.
        divides: whether logits are divided by a temperature.
        in_place: whether that division makes no copy.
    """

    code: LogProbCode
    divides: bool
    in_place: bool


def scoring_of(stack: Stack, *, rlt: bool, divides: bool) -> Scoring:
    """What a stack runs."""
    return Scoring(code=code_of(stack, rlt=rlt), divides=divides, in_place=stack.temperature_in_place and not rlt)


def completion_logprobs(
    forward: Callable[..., Any],
    model: Any,
    batch: Batch,
    num_tokens: int,
    scoring: Scoring,
    *,
    use_cache: bool = False,
) -> Any:
    """Log-probabilities of the last `num_tokens` tokens of each row."""
    targets = batch.input_ids[:, -num_tokens:]
    if scoring.code is LogProbCode.FUSED:
        return _fused(forward, model, batch, targets)
    keep = {} if num_tokens + 1 >= batch.input_ids.shape[1] else {"logits_to_keep": num_tokens + 1}
    logits = forward(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=use_cache, **keep
    ).logits[:, :-1, :]
    logits = logits[:, -num_tokens:]
    if scoring.divides:
        if scoring.in_place:
            logits.div_(_TEMPERATURE)
        else:
            logits = logits / _TEMPERATURE
    return _selected(logits, targets, scoring.code)


def full_length_logprobs(forward: Callable[..., Any], batch: Batch, *, use_cache: bool) -> Any:
    """Log-probabilities of every token, as RLT's rewards take them: logits, a divided copy and its log-softmax at once.

    RLT trainers/teacher_rewards.py lines 599 to 636: the outputs live to the end.
    """
    outputs = forward(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=use_cache)
    logprobs = (outputs.logits / _TEMPERATURE).log_softmax(dim=-1)
    return logprobs[:, :-1].gather(dim=-1, index=batch.input_ids[:, 1:].unsqueeze(-1)).squeeze(-1)


def _selected(logits: Any, targets: Any, code: LogProbCode) -> Any:
    if code is LogProbCode.SELECTIVE and logits.dtype in (torch.float32, torch.float64):
        chosen = torch.gather(logits, dim=-1, index=targets.unsqueeze(-1)).squeeze(-1)
        return chosen - torch.stack([torch.logsumexp(row, dim=-1) for row in logits])
    rows = []
    for row_logits, row_targets in zip(logits, targets, strict=True):
        row_logprobs = row_logits.log_softmax(dim=-1)
        rows.append(row_logprobs.gather(dim=-1, index=row_targets.unsqueeze(-1)).squeeze(-1))
    return torch.stack(rows)


@contextmanager
def fused_kernels(scoring: Scoring) -> Iterator[None]:
    """TRL's Triton kernels, which allocate nothing, in place of their torch versions on other devices."""
    # Without trl a method that takes no log-probabilities still runs; one that does says so when it gets there.
    if scoring.code is not LogProbCode.FUSED or not _has_kernels():
        yield
        return
    chunked_logprob = _installed_kernels()

    def nothing(*_: Any, **__: Any) -> None:
        """Folds a tile in place."""

    with (
        patch.object(chunked_logprob, "_forward_tile", nothing),
        patch.object(chunked_logprob, "_backward_tile", nothing),
    ):
        yield


def _has_kernels() -> bool:
    return find_spec("trl") is not None and find_spec("trl.kernels") is not None


def _installed_kernels() -> Any:
    try:
        from trl.kernels import chunked_logprob
    except ImportError as error:
        raise CannotTellError(
            "the loss of TRL 1.15 and newer is run, not modelled, and no such trl is installed",
            hint="install trl>=1.15, or name an older one with --stack trl=1.14.0",
        ) from error
    return chunked_logprob


def _fused(forward: Callable[..., Any], model: Any, batch: Batch, targets: Any) -> Any:
    function = _installed_kernels().ChunkedLogProbFunction
    head = model.get_output_embeddings()

    def tail(hidden: Any) -> Any:
        kept = hidden[:, -targets.shape[1] - 1 : -1].reshape(-1, hidden.shape[-1])
        outputs = function.apply(
            kept,
            head.weight,
            head.bias,
            targets.reshape(-1),
            _TEMPERATURE,
            _FUSED_VOCABULARY,
            None,
            1.0,
            ("log_probs",),
        )
        return outputs[0]

    with patch.object(head, "forward", tail):
        outputs = forward(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
    return outputs.logits.view(targets.shape)
