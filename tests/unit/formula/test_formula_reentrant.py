"""Reentrant checkpointing: what the tape keeps, and what the real code takes, beside the other variant."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import agreement
import pytest

from vramplan.core.run import Tuning
from vramplan.dtypes import DType
from vramplan.formula.graph import Leaf, backward
from vramplan.formula.ops import add, reduce, scale, unary
from vramplan.formula.reentrant import checkpoint_reentrant
from vramplan.formula.tape import Tape, Tensor

N = 4096
TOLERANCE = 0.01
SMALL_VOCABULARY = 64  # so that a layer's backward is the peak, and not the loss


def input_of(tape: Tape, *, needs_gradient: bool = True) -> Tensor:
    hidden = tape.empty(N, DType.FP32)
    if needs_gradient:
        hidden.leaf = Leaf()
    return hidden


def in_use(events: list[int]) -> list[int]:
    """Bytes in use after each event."""
    sizes: list[int] = []
    now, levels = 0, []
    for event in events:
        if event > 0:
            sizes.append(event)
        now += event if event > 0 else -sizes[-1 - event]
        levels.append(now)
    return levels


def test_the_forward_keeps_the_input_only_and_saves_nothing_inside() -> None:
    nodes: list[bool] = []

    def block(hidden: Tensor) -> tuple[Tensor, None]:
        inner = unary(tape, hidden)
        nodes.append(inner.node is not None)
        return unary(tape, inner), None

    tape = Tape()
    result, _ = checkpoint_reentrant(tape, block, input_of(tape))
    assert nodes == [False]
    assert in_use(tape.events)[-1] == 2 * N * 4  # input and output
    del result
    assert in_use(tape.events)[-1] == 0  # nobody asked for the gradient


def test_the_whole_block_runs_again_and_its_result_stays() -> None:
    calls: list[int] = []

    def block(hidden: Tensor) -> tuple[Tensor, None]:
        middle = unary(tape, hidden)
        result = scale(tape, middle)
        calls.append(len(tape.events))
        return result, None

    tape = Tape()
    hidden = input_of(tape)
    result, _ = checkpoint_reentrant(tape, block, hidden)
    loss = reduce(tape, result, 1)
    del result
    backward(tape, loss)
    assert len(calls) == 2
    del loss
    assert in_use(tape.events)[-1] == 2 * N * 4  # the input and its gradient
    # Input, the arriving gradient, the middle and the result of the second run, and the result's derivative.
    assert max(in_use(tape.events)[calls[0] :]) // (N * 4) == 5


def test_without_an_input_that_needs_a_gradient_nothing_inside_has_one() -> None:
    tape = Tape()
    parameter = Tensor(None, N, DType.FP32, leaf=Leaf())
    hidden = input_of(tape, needs_gradient=False)
    result, _ = checkpoint_reentrant(tape, lambda given: (add(tape, given, parameter), None), hidden)
    assert not result.requires_grad


def test_parameters_and_inputs_get_one_gradient_each() -> None:
    tape = Tape()
    parameter = Tensor(None, N, DType.FP32, leaf=Leaf())
    hidden = input_of(tape)
    result, _ = checkpoint_reentrant(tape, lambda given: (unary(tape, add(tape, given, parameter)), None), hidden)
    loss = reduce(tape, result, 1)
    backward(tape, loss)
    assert parameter.leaf is not None
    assert hidden.leaf is not None
    assert parameter.leaf.grad is not None
    assert hidden.leaf.grad is not None


def test_a_block_s_input_goes_with_its_backward() -> None:
    tape = Tape()
    before: list[int] = []

    def block(hidden: Tensor) -> tuple[Tensor, None]:
        before.append(in_use(tape.events)[-1])
        return unary(tape, hidden), None

    hidden = input_of(tape)
    for _ in range(4):
        hidden, _ = checkpoint_reentrant(tape, block, hidden)
    loss = reduce(tape, hidden, 1)
    del hidden
    backward(tape, loss)
    recomputed = before[4:]
    assert [earlier - later for earlier, later in pairwise(recomputed)] == [N * 4] * 3


CASES = [
    agreement.Case(model=model, tuning=tuning, precision=precision, attention=attention, checkpoints=True)
    for model, tuning, precision, attention in (
        ("llama", Tuning.LORA, "bf16", "sdpa"),
        ("llama", Tuning.LORA, "int8", "sdpa"),
        ("qwen3", Tuning.FULL, "amp", "eager"),
        ("gpt2", Tuning.LORA, "amp", "sdpa"),
        ("gemma2", Tuning.FULL, "bf16", "eager"),
        ("mixtral", Tuning.FULL, "bf16", "sdpa"),
        ("falcon-7b", Tuning.LORA, "nf4-kbit-amp", "eager"),
        ("gpt_neox", Tuning.LORA, "nf4", "sdpa"),
    )
]


@pytest.mark.parametrize("reentrant", [False, True], ids=["non-reentrant", "reentrant"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.model}-{case.label}".replace(" ", "-"))
def test_both_variants_peak_as_the_real_code_does(
    case: agreement.Case, reentrant: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("torch", "transformers", "peft", "bitsandbytes"):
        pytest.importorskip(package)
    small = {**agreement.SMALL_MODELS[case.model], "vocab_size": SMALL_VOCABULARY}
    monkeypatch.setitem(agreement.SMALL_MODELS, case.model, small)
    (one,) = agreement.compare(replace(case, reentrant=reentrant))
    assert abs(one.error_ratio) <= TOLERANCE


def test_reentrant_int8_keeps_no_inputs_of_linear_layers() -> None:
    case = next(case for case in CASES if case.precision == "int8")
    plain, reentrant = (agreement.formula_peaks(replace(case, reentrant=value))["train"] for value in (False, True))
    assert reentrant < 0.9 * plain
