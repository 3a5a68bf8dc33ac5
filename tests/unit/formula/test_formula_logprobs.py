"""What log-probabilities cost in U, one fp32 tensor of rows × tokens × vocabulary: as the trainers' code was seen to.

The expected multiples were measured on the trainers' own functions with PyTorch's profiler on a CPU (TRL 0.14 to 1.14,
SakanaAI/RLT 86a3f5c; one of them agrees with a published H100 peak to 0.5 %). Where the formulas say less, the CPU's
kernels are why: for 16-bit logits it converts what CUDA's kernels read directly, 0.5 U more in each row below. A hidden
size of 8 keeps everything but the logits out of sight.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from vramplan.archs import read_model
from vramplan.core.run import Method
from vramplan.core.stack import Stack
from vramplan.dtypes import DType
from vramplan.formula.graph import Leaf, backward
from vramplan.formula.linear import Weights, parameter
from vramplan.formula.logits import HeadWeights
from vramplan.formula.logprobs import TILE_VOCABULARY, LogProbCode, code_of, token_log_probabilities
from vramplan.formula.ops import reduce
from vramplan.formula.tape import Tape

HIDDEN, VOCABULARY, TOKENS = 8, 30_000, 512
MODEL = read_model(
    {
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": HIDDEN,
        "num_attention_heads": 1,
        "num_hidden_layers": 1,
        "vocab_size": VOCABULARY,
    }
)


@dataclass(frozen=True, slots=True)
class Way:
    """How log-probabilities are taken."""

    code: LogProbCode
    in_place: bool


TRL_TO_0_14 = Way(LogProbCode.ROWS, in_place=False)
TRL_TO_1_14 = Way(LogProbCode.SELECTIVE, in_place=True)
RLT = Way(LogProbCode.SELECTIVE, in_place=False)
FUSED = Way(LogProbCode.FUSED, in_place=True)


def multiple_of_u(way: Way, rows: int, dtype: DType, *, trains: bool, fp32_outputs: bool = False) -> float:
    """Peak bytes of the head and what follows it, over rows × tokens × vocabulary × 4."""
    tape = Tape()
    hidden = tape.empty(rows * (TOKENS + 1) * HIDDEN, dtype)
    if trains:
        hidden.leaf = Leaf(hidden.detach())
    tape.grad_enabled = trains
    weight = parameter(HIDDEN * VOCABULARY, dtype, trains=False)
    head = Weights(in_features=HIDDEN, out_features=VOCABULARY, weight=weight)
    scored = token_log_probabilities(
        tape,
        hidden,
        MODEL,
        HeadWeights(norm=None, head=head),
        rows=rows,
        tokens=TOKENS,
        code=way.code,
        fp32_outputs=fp32_outputs,
        divides_by_temperature=True,
        temperature_in_place=way.in_place,
    )
    if trains:
        loss = reduce(tape, scored, 1)
        del scored
        backward(tape, loss)
    sizes: list[int] = []
    now = peak = 0
    for event in tape.events:
        if event > 0:
            sizes.append(event)
            now += event
            peak = max(peak, now)
        else:
            now -= sizes[-1 - event]
    return peak / (rows * TOKENS * VOCABULARY * 4)


@pytest.mark.parametrize(
    ("way", "rows", "dtype", "trains", "measured"),
    [
        (TRL_TO_1_14, 1, DType.FP32, False, 2.0),
        (TRL_TO_1_14, 2, DType.FP32, False, 1.5),
        (TRL_TO_1_14, 1, DType.FP32, True, 4.0),
        (TRL_TO_1_14, 2, DType.FP32, True, 4.0),
        (TRL_TO_1_14, 8, DType.FP32, True, 4.0),
        (TRL_TO_1_14, 1, DType.BF16, True, 2.0),
        (TRL_TO_1_14, 2, DType.BF16, True, 2.0),
        (RLT, 1, DType.FP32, False, 2.0),
        (RLT, 2, DType.FP32, False, 2.0),
        (RLT, 1, DType.FP32, True, 4.0),
        (RLT, 2, DType.FP32, True, 3.0),
        (RLT, 8, DType.FP32, True, 3.0),
        # The copy of an fp32 row beside 16-bit logits is the CPU's: 0.5 U less on CUDA.
        (RLT, 1, DType.BF16, False, 1.5 - 0.5),
        (RLT, 2, DType.BF16, False, 1.5 - 0.5),
        (RLT, 1, DType.BF16, True, 2.0 - 0.5),
        (RLT, 2, DType.BF16, True, 1.5 - 0.5),
        (RLT, 8, DType.BF16, True, 1.5 - 0.5),
    ],
    ids=str,
)
def test_peaks_are_the_measured_multiples(way: Way, rows: int, dtype: DType, trains: bool, measured: float) -> None:
    assert multiple_of_u(way, rows, dtype, trains=trains) == pytest.approx(measured, rel=0.01)


@pytest.mark.parametrize("rows", [2, 4, 8])
def test_without_gradients_a_row_at_a_time_is_made(rows: int) -> None:
    # logsumexp makes one shifted row beside the logits.
    assert multiple_of_u(TRL_TO_1_14, rows, DType.FP32, trains=False) == pytest.approx(1 + 1 / rows, rel=0.01)


@pytest.mark.parametrize("way", [TRL_TO_0_14, TRL_TO_1_14, RLT], ids=str)
@pytest.mark.parametrize("trains", [False, True])
def test_halving_the_logits_halves_them_at_least(way: Way, trains: bool) -> None:
    half = multiple_of_u(way, 2, DType.BF16, trains=trains)
    assert half <= multiple_of_u(way, 2, DType.FP32, trains=trains) / 2 + 0.01


@pytest.mark.parametrize("way", [TRL_TO_0_14, TRL_TO_1_14, RLT], ids=str)
def test_fp32_outputs_of_a_16_bit_model_cost_as_fp32_logits_and_no_less(way: Way) -> None:
    converted = multiple_of_u(way, 2, DType.BF16, trains=True, fp32_outputs=True)
    assert converted >= multiple_of_u(way, 2, DType.FP32, trains=True) - 0.01


@pytest.mark.parametrize("trains", [False, True])
def test_the_fused_head_never_makes_full_logits(trains: bool) -> None:
    tile = TOKENS * 2 * TILE_VOCABULARY * DType.BF16.itemsize
    full = 2 * TOKENS * VOCABULARY * 4
    assert multiple_of_u(FUSED, 2, DType.BF16, trains=trains) <= 1.05 * tile / full


def test_each_version_has_its_code(stack_of) -> None:
    codes = {
        "0.14.0": LogProbCode.ROWS,
        "0.15.0": LogProbCode.SELECTIVE,
        "1.14.0": LogProbCode.SELECTIVE,
        "1.15.0": LogProbCode.FUSED,
    }
    for version, code in codes.items():
        stack: Stack = stack_of(version)
        assert code_of(stack, rlt=False) is code
        assert code_of(stack, rlt=True) is LogProbCode.SELECTIVE


@pytest.fixture
def stack_of():
    from vramplan.catalog.dirs import profile_dirs
    from vramplan.catalog.stacks import load_stack

    return lambda version: load_stack({"trl": version}, profile_dirs())


def test_only_trainers_that_roll_out_divide_by_a_temperature() -> None:
    assert {method for method in Method if method.rolls_out} == {Method.GRPO, Method.RLT}
