"""Log-probabilities of completion tokens as TRL and RLT take them, on a real model's outputs.

Behaviour read in TRL trainer/utils.py and trainer/grpo_trainer.py (0.14 to 1.16) and in RLT trainers/grpo.py (86a3f5c).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

import torch
import torch.utils.checkpoint

from vramplan.core.run import Method
from vramplan.core.stack import Stack
from vramplan.errors import CannotTellError
from vramplan.formula.heads import CHUNKED_LOSS_TOKENS
from vramplan.formula.logprobs import LogProbCode, code_of
from vramplan.program.workload import Batch

_TEMPERATURE = 0.9  # any: TRL divides whatever it is
_FUSED_VOCABULARY = 32768  # _CHUNKED_LOGPROB_CHUNK_SIZE in TRL 1.16 trainer/utils.py


class SftLoss(str, Enum):
    """Where the loss of supervised fine-tuning comes from."""

    MODEL = "model"  # the model's own, of all logits
    CHUNKED = "chunked"  # TRL 1.5 to 1.14
    FUSED = "fused"  # TRL from 1.15 on


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """How tokens are scored.

    Args:
        code: which code.
        divides: whether logits are divided by a temperature.
        in_place: whether that division makes no copy.
        sft: which loss supervised fine-tuning has.
    """

    code: LogProbCode
    divides: bool
    in_place: bool
    sft: SftLoss = SftLoss.MODEL


def scoring_of(stack: Stack, method: Method) -> Scoring:
    """What a stack runs."""
    rlt = method is Method.RLT
    return Scoring(
        code=code_of(stack, rlt=rlt),
        divides=method.rolls_out,
        in_place=stack.temperature_in_place and not rlt,
        sft=_sft_loss_of(stack) if method is Method.SFT else SftLoss.MODEL,
    )


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

    # On a GPU products of 16-bit tiles go into the fp32 sums without a copy (torch.addmm's out_dtype).
    names = [name for name in ("_forward_tile", "_backward_tile", "_addmm_fp32") if hasattr(chunked_logprob, name)]
    with ExitStack() as patches:
        for name in names:
            patches.enter_context(patch.object(chunked_logprob, name, nothing))
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


def _sft_loss_of(stack: Stack) -> SftLoss:
    """Which loss TRL's SFTTrainer computes; the model's own where trl is not named or is older than 1.5."""
    if "trl" not in stack.named:
        return SftLoss.MODEL
    if stack.fused_lm_head:
        return SftLoss.FUSED
    return SftLoss.CHUNKED if stack.sft_chunked_loss else SftLoss.MODEL


def fused_sft_loss(forward: Callable[..., Any], model: Any, batch: Batch) -> Any:
    """TRL from 1.15 on: the negative mean of what the fused head gives, entropies for the metrics beside it.

    TRL 1.16 trainer/sft_trainer.py add_fused_lm_head(outputs=("log_probs", "entropy", "is_top1")).
    """
    targets = batch.input_ids[:, 1:]
    return -_fused(forward, model, batch, targets, temperature=1.0, outputs=("log_probs", "entropy", "is_top1")).mean()


def chunked_sft_loss(forward: Callable[..., Any], model: Any, batch: Batch) -> Any:
    """TRL 1.5 to 1.14: the loss of 256 tokens at a time, whose logits are made again in the backward.

    TRL 1.10 trainer/sft_trainer.py, chunked_nll (research/training-memory.md §3.5).
    """
    head = model.get_output_embeddings()
    targets = batch.input_ids[:, 1:].reshape(-1)

    def loss_of(hidden: Any, weight: Any, wanted: Any) -> Any:
        return torch.nn.functional.cross_entropy((hidden @ weight.t()).float(), wanted, reduction="sum")

    def tail(hidden: Any) -> Any:
        kept = hidden[:, :-1].reshape(-1, hidden.shape[-1])
        total = kept.new_zeros((), dtype=torch.float32)
        for start in range(0, kept.shape[0], CHUNKED_LOSS_TOKENS):
            end = start + CHUNKED_LOSS_TOKENS
            total = total + torch.utils.checkpoint.checkpoint(
                loss_of, kept[start:end], head.weight, targets[start:end], use_reentrant=False
            )
        return total

    with patch.object(head, "forward", tail):
        outputs = forward(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
    return outputs.logits / targets.shape[0]


def _fused(
    forward: Callable[..., Any],
    model: Any,
    batch: Batch,
    targets: Any,
    *,
    temperature: float = _TEMPERATURE,
    outputs: tuple[str, ...] = ("log_probs",),
) -> Any:
    function = _installed_kernels().ChunkedLogProbFunction
    head = model.get_output_embeddings()

    def tail(hidden: Any) -> Any:
        kept = hidden[:, -targets.shape[1] - 1 : -1].reshape(-1, hidden.shape[-1])
        found = function.apply(
            kept, head.weight, head.bias, targets.reshape(-1), temperature, _FUSED_VOCABULARY, None, 1.0, outputs
        )
        return found[0]

    with patch.object(head, "forward", tail):
        answer = forward(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
    return answer.logits.view(targets.shape)
