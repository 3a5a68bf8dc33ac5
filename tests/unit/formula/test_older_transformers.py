"""What older transformers kept of a training forward, beside the newest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vramplan.catalog.dirs import profile_dirs
from vramplan.formula.phases import plan_phases
from vramplan.formula.setting import Setting
from vramplan.formula.static import kept_outputs_bytes
from vramplan.planner.answer import prepare
from vramplan.runfiles.flat import parse_flat

SANTACODER = "bigcode/gpt_bigcode-santacoder"
LAYERS, WIDTH, KEY_WIDTH, VOCABULARY = 24, 2048, 128, 49280
ROWS, TOKENS = 8, 2048


def setting_of(version: str, **changes: Any) -> Setting:
    run = {
        "model": SANTACODER,
        "method": "sft",
        "tuning": "full",
        "dtype": "bf16",
        "mixed_precision": "no",
        "attn_implementation": "flash_attention_2",
        "gradient_checkpointing": True,
        "per_device_batch_size": ROWS,
        "max_seq_length": TOKENS,
        "gpu": "a100-80gb",
        "stack": {"transformers": version, "trl": "0.13.0"},
    }
    return prepare(parse_flat(run | changes, "test"), profile_dirs())[0]


def peak_of(setting: Setting) -> int:
    (plan,) = plan_phases(setting)
    return plan.passes[0].level({}).peak_bytes


def held_before_the_loss(setting: Setting) -> int:
    """Bytes in use when the last layer's forward has ended."""
    (plan,) = plan_phases(setting)
    (traced,) = plan.passes
    layout, total = traced.layout, 0
    for piece, times in layout.runs:
        if layout.pieces[piece].kind == "head":
            return total
        total += times * sum(traced.blocks[serial] * each for serial, each in layout.changes[piece])
    raise AssertionError("no head")


def test_gpt_bigcode_kept_its_keys_through_checkpoints_until_4_53() -> None:
    """Each layer returned a view of c_attn's result, which keeps all of it until the outputs are gone."""
    kept = LAYERS * ROWS * TOKENS * (WIDTH + 2 * KEY_WIDTH) * 2
    old, new = setting_of("4.52.4"), setting_of("4.53.0")
    assert held_before_the_loss(old) - held_before_the_loss(new) == kept
    # Less than that at the peak: without them, that is in the loss's backward, when they are gone.
    assert 0 < peak_of(old) - peak_of(new) < kept


@pytest.mark.parametrize(
    "changes",
    [
        {"gradient_checkpointing": False},  # attention has saved the same tensor
        {"model": "openai-community/gpt2", "max_seq_length": 1024},  # has the guard
        {"model": "Qwen/Qwen2.5-0.5B-Instruct"},
    ],
    ids=["no-checkpoints", "gpt2", "qwen2"],
)
def test_nothing_else_kept_its_keys(changes: dict[str, Any]) -> None:
    assert peak_of(setting_of("4.52.4", **changes)) == peak_of(setting_of("4.53.0", **changes))


@pytest.mark.parametrize(("trl", "asks"), [("0.14.0", False), ("0.16.1", True), ("0.21.0", False), ("0.22.0", True)])
def test_a_trainer_may_ask_for_no_cache_by_itself(trl: str, asks: bool) -> None:
    old, new = (
        peak_of(setting_of(version, stack={"transformers": version, "trl": trl})) for version in ("4.52.4", "4.53.0")
    )
    assert (old == new) is asks


def test_a_plain_loop_holds_them_when_the_optimizer_steps() -> None:
    old, new = (
        kept_outputs_bytes(setting_of(version, stack={"transformers": version})) for version in ("4.52.4", "4.53.0")
    )
    assert new == ROWS * TOKENS * VOCABULARY * 2
    assert old - new == LAYERS * ROWS * TOKENS * (WIDTH + 2 * KEY_WIDTH) * 2


@pytest.mark.parametrize("reentrant", [True, False])
def test_both_ways_of_checkpointing_keep_them(reentrant: bool) -> None:
    before, after = (setting_of(version, stack={"transformers": version}) for version in ("4.52.4", "4.53.0"))
    peaks = []
    for setting in (before, after):
        assert setting.run.training is not None
        training = replace(setting.run.training, reentrant_checkpointing=reentrant)
        peaks.append(peak_of(replace(setting, run=replace(setting.run, training=training))))
    assert peaks[0] > peaks[1]


def test_models_with_a_loss_of_their_own_took_it_of_16_bit_logits_until_4_49() -> None:
    """4.45 made the logits of most models fp32 in their forward, those of gpt2 and its like never."""
    logits = ROWS * TOKENS * VOCABULARY * 2
    older, old, new = (peak_of(setting_of(version)) for version in ("4.45.2", "4.46.0", "4.49.0"))
    assert older == old
    assert new - old > logits
    most = "Qwen/Qwen2.5-0.5B-Instruct"
    assert peak_of(setting_of("4.45.2", model=most)) != peak_of(setting_of("4.46.0", model=most))
