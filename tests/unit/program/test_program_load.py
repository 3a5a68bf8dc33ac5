from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vramplan.core.run import Method, Quantization, Run
from vramplan.dtypes import DType
from vramplan.errors import UnsupportedArchitectureError, UsageError
from vramplan.program.load import count_parameters
from vramplan.program.older_loss import LogitsCode
from vramplan.program.oracle import trace
from vramplan.program.trace import FakeTrace, rounded
from vramplan.program.workload import Loop

HIDDEN, WIDTH, KEYS, VOCABULARY, LAYERS = 128, 256, 64, 1000, 5
LINEARS = [HIDDEN * HIDDEN] * 2 + [KEYS * HIDDEN] * 2 + [WIDTH * HIDDEN] * 3  # q and o, k and v, gate and up and down
NORMS = 2 * LAYERS + 1


def _resident(recorded: FakeTrace) -> int:
    """Rounded bytes alive when loading is done."""
    (_, _, end), *_ = recorded.spans()
    return sum(rounded(size) for _, size in recorded.serials_at(end - 1))


def _half(elements: int) -> int:
    return rounded(2 * elements)


ROPE = rounded(4 * 16)  # inverse frequencies of a head of 32, fp32, and transformers' copy of them


def test_tied_weights_have_memory_once(tiny: dict[str, Any], make_run: Callable[..., Run]) -> None:
    run = make_run(Method.SCORE)
    linears = LAYERS * sum(_half(size) for size in LINEARS)
    embedding = _half(VOCABULARY * HIDDEN)
    expected = linears + embedding + NORMS * _half(HIDDEN) + 2 * ROPE
    assert _resident(trace(tiny, run)) == expected
    assert _resident(trace({**tiny, "tie_word_embeddings": False}, run)) == expected + embedding


def test_int8_keeps_a_byte_for_each_weight_and_a_scale_for_each_row(
    tiny: dict[str, Any], make_run: Callable[..., Run]
) -> None:
    recorded = trace(tiny, make_run(Method.SCORE, quantization=Quantization.INT8))
    rows = [size // HIDDEN for size in LINEARS[:6]] + [HIDDEN]
    linears = sum(rounded(size) + rounded(4 * count) for size, count in zip(LINEARS, rows, strict=True))
    rest = _half(VOCABULARY * HIDDEN) + NORMS * _half(HIDDEN) + 2 * ROPE
    assert _resident(recorded) == LAYERS * linears + rest


def test_nf4_keeps_half_a_byte_and_a_scale_for_each_block(tiny: dict[str, Any], make_run: Callable[..., Run]) -> None:
    recorded = trace(tiny, make_run(Method.SCORE, quantization=Quantization.NF4))
    codes = rounded(16 * 4)
    linears = sum(rounded(size // 2) + rounded(size // 64 * 4) + codes for size in LINEARS)
    rest = _half(VOCABULARY * HIDDEN) + NORMS * _half(HIDDEN) + 2 * ROPE
    assert _resident(recorded) == LAYERS * linears + rest


def test_the_kbit_upcast_makes_the_rest_fp32(tiny: dict[str, Any], make_run: Callable[..., Run]) -> None:
    plain = trace(tiny, make_run(quantization=Quantization.NF4))
    upcast = trace(tiny, make_run(quantization=Quantization.NF4, upcast=True))
    assert _resident(upcast) - _resident(plain) == _half(VOCABULARY * HIDDEN) + NORMS * (
        rounded(4 * HIDDEN) - _half(HIDDEN)
    )


def test_only_adapters_have_gradients_under_lora(tiny: dict[str, Any], make_run: Callable[..., Run]) -> None:
    recorded = trace(tiny, make_run(), with_labels=True)
    index = dict(recorded.marks)["optimizer"] - 1
    gradients = sum(size for serial, size in recorded.serials_at(index) if recorded.owners[serial] == "gradients")
    rank = 4
    assert gradients == LAYERS * 4 * rank * (HIDDEN + HIDDEN + HIDDEN + KEYS)  # fp32 A and B of q and of v


def test_adam_states_appear_in_the_first_update(tiny: dict[str, Any], make_run: Callable[..., Run]) -> None:
    recorded = trace(tiny, make_run(tuning="full", dtype=DType.FP32), with_labels=True)

    def states(phase: str) -> int:
        index = dict(recorded.marks)[phase] - 1
        return sum(size for serial, size in recorded.serials_at(index) if recorded.owners[serial] == "optimizer")

    elements = LAYERS * sum(LINEARS) + VOCABULARY * HIDDEN + NORMS * HIDDEN
    assert states("optimizer") == 0
    assert states("forward.2") == 2 * 4 * elements


def test_an_unknown_model_type_is_told(make_run: Callable[..., Run]) -> None:
    with pytest.raises(UnsupportedArchitectureError, match="no model type 'nonesuch'"):
        trace({"model_type": "nonesuch"}, make_run())


def test_modules_that_do_not_exist_cannot_be_adapted(tiny: dict[str, Any], make_run: Callable[..., Run]) -> None:
    with pytest.raises(UsageError, match="c_attn"):
        trace(tiny, make_run(targets=("c_attn",)))


def test_an_unknown_optimizer_is_told(tiny: dict[str, Any], make_run: Callable[..., Run]) -> None:
    with pytest.raises(UsageError, match="no optimizer 'sgdx'"):
        trace(tiny, make_run(optim="sgdx"))


def test_older_losses_hold_more_logits(tiny: dict[str, Any], make_run: Callable[..., Run]) -> None:
    run = make_run(rows=4)
    elements = 4 * 64 * VOCABULARY

    def peak(code: LogitsCode) -> int:
        loop = Loop(style="step", clip=False)
        return trace(tiny, run, logits_code=code, loop=loop).peak_allocated_bytes("backward")

    newest = peak(LogitsCode())
    assert peak(LogitsCode(upcasts=True)) - newest == 2 * elements  # fp32 logits stay alive in place of 16-bit ones
    assert peak(LogitsCode(some_keep_16_bits=True)) == newest  # llama's loss has always been an fp32 one


def test_parameters_are_counted_as_transformers_has_them(tiny: dict[str, Any]) -> None:
    assert count_parameters(tiny) == LAYERS * sum(LINEARS) + VOCABULARY * HIDDEN + NORMS * HIDDEN
