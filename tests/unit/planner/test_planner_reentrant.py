"""Which variant of checkpointing a run has: by the versions of transformers and TRL."""

from __future__ import annotations

from typing import Any

import pytest

from vramplan.catalog.dirs import ProfileDirs, shipped_profiles
from vramplan.planner.answer import answer, prepare
from vramplan.runfiles.flat import parse_flat

DIRS = ProfileDirs(shipped=shipped_profiles())
BASE: dict[str, Any] = {
    "model": "Qwen/Qwen2.5-0.5B-Instruct",
    "method": "sft",
    "dtype": "bf16",
    "quantization": "int8",
    "gradient_checkpointing": True,
    "max_seq_length": 64,
    "gpu": "l4",
}


def reentrant(**over: object) -> bool:
    training = prepare(parse_flat({**BASE, **over}, ""), DIRS)[0].run.training
    assert training is not None
    return training.reentrant_checkpointing


@pytest.mark.parametrize(
    ("stack", "expected"),
    [
        ({"transformers": "4.35.0"}, True),
        ({"transformers": "4.57.6"}, True),
        ({"transformers": "5.0.0"}, False),
        ({"transformers": "5.23.0"}, False),
        ({"transformers": "4.57.6", "trl": "0.26.2"}, True),
        ({"transformers": "4.57.6", "trl": "0.27.0"}, False),
        ({"transformers": "5.23.0", "trl": "0.26.2"}, False),
    ],
)
def test_the_versions_say_which(stack: dict[str, str], expected: bool) -> None:
    assert reentrant(stack=stack) is expected
    assert not reentrant(stack=stack, gradient_checkpointing=False)
    if "trl" in stack:
        sizes = {"max_seq_length": None, "context": 32, "generations": 2}
        assert reentrant(stack=stack, method="grpo", **sizes) is expected
        assert reentrant(stack=stack, method="dpo") is expected


def test_accumulation_changes_nothing_about_it() -> None:
    assert reentrant(stack={"transformers": "4.57.6"}, gradient_accumulation_steps=4)


def test_rlt_asks_for_the_other_itself() -> None:
    over = {"model": None, "teacher": BASE["model"], "method": "rlt", "max_seq_length": None, "context": 32}
    assert not reentrant(stack={"transformers": "4.51.1", "trl": "0.14.0"}, **over)


def test_the_report_says_so_and_int8_keeps_nothing_then() -> None:
    old, new = (
        answer(parse_flat({**BASE, "stack": {"transformers": version}}, ""), profile_dirs=DIRS)
        for version in ("4.57.6", "5.23.0")
    )
    assert any("reentrant" in sentence for sentence in old.assumptions)
    assert not any("reentrant" in sentence for sentence in new.assumptions)
    assert "VP015" not in {one.rule for one in old.warnings}
    assert "VP015" in {one.rule for one in new.warnings}
