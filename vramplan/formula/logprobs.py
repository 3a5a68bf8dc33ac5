"""Log-probabilities of tokens as trainers take them from hidden states: the widest tensors of a GRPO-style run.

Sources: TRL trainer/utils.py selective_log_softmax (0.15 to 1.14) and trainer/grpo_trainer.py by version; TRL
kernels/chunked_logprob.py (from 1.15: tiles of 4,096 tokens × 32,768 vocabulary entries, never full logits); RLT
trainers/grpo.py at 86a3f5c (slices, a copy divided by the temperature, then as TRL 0.15).
"""

from __future__ import annotations

from enum import Enum

from vramplan.core.model import ModelShape
from vramplan.core.stack import Stack
from vramplan.dtypes import DType
from vramplan.formula.graph import Grads, apply, connect
from vramplan.formula.logits import HeadWeights, head_logits
from vramplan.formula.ops import add, chunk, narrow, scale, to, unary
from vramplan.formula.tape import Tape, Tensor

TILE_TOKENS = 4096
TILE_VOCABULARY = 32768
STATISTICS = 7
"""fp32 vectors of one value for each token that the fused kernel keeps (running maxima, sums, targets)."""


class LogProbCode(str, Enum):
    """Which code turns logits into log-probabilities."""

    ROWS = "rows"  # a log-softmax of each row (TRL before 0.15; 16-bit logits in the others)
    SELECTIVE = "selective"  # gathered logits less log-sum-exp where logits are fp32 (TRL 0.15 to 1.14, RLT)
    FUSED = "fused"  # tiles, no logits (TRL from 1.15)


def code_of(stack: Stack, *, rlt: bool) -> LogProbCode:
    """The code that a stack runs."""
    if rlt:
        return LogProbCode.SELECTIVE
    if not stack.selective_log_softmax:
        return LogProbCode.ROWS
    return LogProbCode.FUSED if stack.fused_lm_head else LogProbCode.SELECTIVE


def token_log_probabilities(
    tape: Tape,
    hidden: Tensor,
    model: ModelShape,
    weights: HeadWeights,
    *,
    rows: int,
    tokens: int,
    code: LogProbCode,
    fp32_outputs: bool,
    divides_by_temperature: bool,
    temperature_in_place: bool,
) -> Tensor:
    """Log-probabilities of the last `tokens` tokens of each of `rows` rows.

    Args:
        tape: where it allocates.
        hidden: all tokens after the final norm.
        model: its vocabulary and what follows the head.
        weights: the head.
        rows: sequences.
        tokens: tokens of each that are scored.
        code: which code runs.
        fp32_outputs: accelerate's convert_outputs_to_fp32 wraps the model.
        divides_by_temperature: logits are divided by a temperature first.
        temperature_in_place: that division makes no copy.

    Returns:
        rows × tokens fp32 values.
    """
    if code is LogProbCode.FUSED:
        return _fused(tape, hidden, weights, rows * tokens)
    vocab_size = model.vocab_size
    logits = head_logits(tape, hidden, model, weights, rows=rows * (tokens + 1))
    with tape.owner("logits"):
        if fp32_outputs:
            logits = to(tape, logits, DType.FP32)
        logits = narrow(tape, logits, rows * tokens * vocab_size)
        if divides_by_temperature:
            logits = _divided_in_place(tape, logits) if temperature_in_place else scale(tape, logits)
        if code is LogProbCode.SELECTIVE and logits.dtype is DType.FP32:
            return _selective(tape, logits, rows, vocab_size)
        return _by_rows(tape, logits, rows, vocab_size)


def _divided_in_place(tape: Tape, logits: Tensor) -> Tensor:
    """`logits.div_(temperature)` on a slice: no copy forward, three in its derivative (autograd CopySlices).

    The gradient of the whole is copied, the slice's part of it cloned, divided and written back.
    """
    numel, dtype = logits.numel, logits.dtype

    def derivative(_grad: Tensor) -> Grads:
        whole = tape.empty(numel, dtype)
        clone = tape.empty(numel, dtype)
        divided = tape.empty(numel, dtype)
        del clone, divided
        return (whole,)

    return connect(tape, Tensor(logits.storage, numel, dtype), (logits,), (), derivative)


def _by_rows(tape: Tape, logits: Tensor, rows: int, vocab_size: int) -> Tensor:
    """`[row.log_softmax(-1).gather(…) for row in logits]`."""
    parts = chunk(tape, logits, (logits.numel // rows,) * rows)
    scored = [_gather(tape, unary(tape, part, saves="result"), part.numel // vocab_size) for part in parts]
    return _stack(tape, scored)


def _selective(tape: Tape, logits: Tensor, rows: int, vocab_size: int) -> Tensor:
    """`logits.gather(…) - torch.stack([torch.logsumexp(row, -1) for row in logits])`."""
    selected = _gather(tape, logits, logits.numel // vocab_size)
    parts = chunk(tape, logits, (logits.numel // rows,) * rows)
    sums = _stack(tape, [_log_sum_exp(tape, part, vocab_size) for part in parts])
    return add(tape, selected, sums)


def _log_sum_exp(tape: Tape, row: Tensor, vocab_size: int) -> Tensor:
    """ATen ReduceOps.cpp logsumexp: exp of the shifted row, then a sum; its derivative grad * (self - result).exp()."""
    shifted = tape.empty(row.numel, row.dtype)
    del shifted
    numel, dtype = row.numel, row.dtype

    def derivative(_grad: Tensor) -> Grads:
        difference = tape.empty(numel, dtype)
        exponential = tape.empty(numel, dtype)
        result = tape.empty(numel, dtype)
        del difference, exponential
        return (result,)

    return apply(tape, numel // vocab_size, dtype, (row,), (row,), derivative, saves_result=True)


def _gather(tape: Tape, values: Tensor, numel: int) -> Tensor:
    """`torch.gather` along the vocabulary: keeps its input; its derivative scatters into zeros of that size."""
    whole, dtype = values.numel, values.dtype
    index = tape.empty(numel, DType.INT64)
    return apply(tape, numel, dtype, (values,), (values, index), lambda _grad: (tape.empty(whole, dtype),))


def _stack(tape: Tape, parts: list[Tensor]) -> Tensor:
    numels = [part.numel for part in parts]
    dtype = parts[0].dtype

    def derivative(grad: Tensor) -> Grads:
        return [Tensor(grad.storage, numel, grad.dtype) for numel in numels]

    return apply(tape, sum(numels), dtype, parts, (), derivative)


def _fused(tape: Tape, hidden: Tensor, weights: HeadWeights, num_tokens: int) -> Tensor:
    """TRL's ChunkedLogProbFunction."""
    head = weights.head.weight
    width, whole = weights.head.in_features, hidden.numel
    kept = num_tokens * width
    hidden_dtype, head_dtype = hidden.dtype, head.dtype
    compute = tape.autocast or hidden_dtype
    tile_tokens = min(num_tokens, TILE_TOKENS)
    needs = (hidden.requires_grad, head.requires_grad)
    part = apply(tape, kept, hidden_dtype, (hidden,), (), lambda _grad: (tape.empty(whole, hidden_dtype),))

    def tiles() -> list[Tensor]:
        tile = [tape.empty(tile_tokens * TILE_VOCABULARY, compute)]
        if hidden_dtype is not compute:
            tile.append(tape.empty(tile_tokens * width, compute))
        if head_dtype is not compute:
            tile.append(tape.empty(TILE_VOCABULARY * width, compute))
        return tile

    def derivative(_grad: Tensor) -> Grads:
        # Locals of the backward: all three live until both sums have been cast.
        hidden_sum = tape.empty(kept, DType.FP32) if needs[0] else None
        head_sum = tape.empty(head.numel, DType.FP32) if needs[1] else None
        temporaries = tiles()
        grads = (
            hidden_sum if hidden_sum is None else to(tape, hidden_sum, hidden_dtype),
            head_sum if head_sum is None else to(tape, head_sum, head_dtype),
        )
        del temporaries, hidden_sum, head_sum
        return grads

    with tape.owner("logits"):
        statistics = [tape.empty(num_tokens, DType.FP32) for _ in range(STATISTICS)]
        temporaries = tiles()
        result = apply(tape, num_tokens, DType.FP32, (part, head), (part, head), derivative, saves_result=True)
        del statistics, temporaries
    return result
