"""SFT in the program and in the formulas: the loss that the named trl has, and the states that a Trainer makes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vramplan.catalog.dirs import ProfileDirs, shipped_profiles
from vramplan.planner.answer import answer
from vramplan.runfiles.flat import parse_flat


@pytest.mark.parametrize("trl", ["1.10.0", "1.16.0"])
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_sft_runs_the_loss_that_the_named_trl_has(tmp_path: Path, trl: str, tuning: str) -> None:
    pytest.importorskip("torch")
    if trl == "1.16.0":
        pytest.importorskip("trl")
    from vramplan.planner.simulated import simulate_run

    config = {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "vocab_size": 32000,
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    settings = {
        "model": str(tmp_path),
        "method": "sft",
        "tuning": tuning,
        "dtype": "bf16",
        "max_seq_length": 2048,
        "per_device_batch_size": 4,
        "gradient_checkpointing": True,
        "optim": "adamw_8bit",
        "gpu": "l4",
        "stack": {"trl": trl},
    }
    flat = parse_flat(settings, "")
    dirs = ProfileDirs(shipped=shipped_profiles())
    simulated = simulate_run(flat, profile_dirs=dirs).report
    estimated = answer(flat, profile_dirs=dirs)
    # Adapters of a toy are smaller than what blocks are rounded to: their step says nothing.
    for name in ("train", "optimizer") if tuning == "full" else ("train",):
        assert estimated.phase(name).allocated_bytes == pytest.approx(simulated.phase(name).allocated_bytes, rel=0.015)
