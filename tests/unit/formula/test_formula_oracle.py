"""The formulas agree with transformers', peft's and bitsandbytes' own code on fake tensors, to 1 % of each peak."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("bitsandbytes")

from agreement import PREPARED_BY_TRL, Case, compare
from agreement_models import SMALL_MODELS

from vramplan.core.run import Method, Tuning

TOLERANCE = 0.01
HAS_NO_SDPA = frozenset({"gemma2", "gpt_oss"})


def matrix() -> list[Case]:
    """Every architecture in training, scoring and decoding; modes are spread so that each meets several of them."""
    cases = []
    for index, model in enumerate(SMALL_MODELS):
        attention = "eager" if model in HAS_NO_SDPA else "sdpa"
        other = "eager" if index % 2 else attention
        cases += [
            Case(model=model, tuning=Tuning.FULL, precision="amp", attention=other, checkpoints=index % 2 == 0),
            Case(model=model, tuning=Tuning.LORA, precision="bf16", attention=attention, checkpoints=index % 2 == 1),
            Case(model=model, method=Method.INFERENCE, attention=other),
        ]
    for model in ("llama", "gpt2", "gemma3_text", "mixtral", "falcon-7b"):
        cases.append(Case(model=model, method=Method.SCORE))
    for precision in ("int8", "nf4", "nf4-amp", "nf4-kbit-amp"):
        cases.append(Case(model="llama", precision=precision, checkpoints=precision != "nf4"))
    for index, model in enumerate(("llama", "opt", "gpt2", "falcon-7b", "deepseek_v3")):
        for number, precision in enumerate(PREPARED_BY_TRL):
            cases.append(Case(model=model, precision=precision, checkpoints=(index + number) % 2 == 0))
    cases.append(Case(model="gpt2", precision="int8"))
    cases.append(Case(model="llama", tuning=Tuning.FULL, plain=True))
    cases.append(Case(model="qwen2", tuning=Tuning.LORA, plain=True, checkpoints=True))
    return cases


@pytest.mark.parametrize("case", matrix(), ids=lambda case: f"{case.model}-{case.label}".replace(" ", "-"))
def test_peaks_are_those_of_the_real_code(case: Case) -> None:
    for one in compare(case):
        assert abs(one.error_ratio) <= TOLERANCE, (
            f"{one.phase} of {case.model}, {case.label}: the formulas say {one.formula_bytes:,} B, the real code "
            f"{one.real_bytes:,} B, {100 * one.error_ratio:+.2f} %"
        )


def test_grouped_heads_in_fp32_are_repeated() -> None:
    """Without autocast an fp32 stream (a k-bit-prepared model) runs in sdpa's memory-efficient kernel.

    The oracle lets that kernel take fewer key heads than query heads, as torch from 2.10 on was seen to do on a T4; the
    formulas repeat keys and values, as older torch had to, and are above it by what the repeated heads take (5 % here).
    """
    (one,) = compare(Case(model="llama", precision="nf4-kbit"))
    assert 0 <= one.error_ratio <= 0.06
