"""What the replay of a run leaves out does not change what it reserves."""

from __future__ import annotations

import pytest

from vramplan.catalog.dirs import profile_dirs
from vramplan.formula import whole
from vramplan.planner.answer import answer
from vramplan.runfiles.flat import parse_flat

LLAMA, GEMMA = "meta-llama/Llama-3.1-8B", "google/gemma-2-9b"

RUNS = {
    "inference": {"model": LLAMA, "method": "inference", "context": 4096},
    "score": {"model": GEMMA, "method": "score", "context": 2048, "attn_implementation": "eager"},
    "sft-qlora": {"model": LLAMA, "method": "sft", "tuning": "lora", "quantization": "nf4", "max_seq_length": 2048},
    "sft-qlora-all-kept": {
        "model": LLAMA,
        "method": "sft",
        "tuning": "lora",
        "quantization": "nf4",
        "max_seq_length": 1024,
        "gradient_checkpointing": False,
    },
    "sft-qlora-gemma": {
        "model": GEMMA,
        "method": "sft",
        "tuning": "lora",
        "quantization": "nf4",
        "max_seq_length": 3968,
    },
    "sft-full": {"model": LLAMA, "method": "sft", "tuning": "full", "max_seq_length": 896},
    "dpo-full": {"model": "Qwen/Qwen2.5-7B-Instruct", "method": "dpo", "tuning": "full", "context": 4096},
    "grpo-lora": {"model": LLAMA, "method": "grpo", "tuning": "lora", "generations": 8, "context": 6272},
    "grpo-lora-gemma": {"model": GEMMA, "method": "grpo", "tuning": "lora", "generations": 8, "context": 1920},
    "rlt-lora": {"model": "Qwen/Qwen2.5-7B-Instruct", "method": "rlt", "tuning": "lora", "context": 4096},
}


def reserved(run: dict[str, object]) -> dict[str, int]:
    found = answer(parse_flat(run, "test"), profile_dirs=profile_dirs())
    return {phase.name: phase.reserved_bytes for phase in found.phases}


@pytest.mark.parametrize("name", RUNS)
def test_shortened_passes_reserve_what_everything_in_full_does(name, monkeypatch):
    shortened = reserved(RUNS[name])
    monkeypatch.setattr(whole, "WHOLE_LAYERS", 10**6)
    full = reserved(RUNS[name])
    assert shortened.keys() == full.keys()
    for phase, num_bytes in full.items():
        assert shortened[phase] == pytest.approx(num_bytes, rel=1e-4), phase


def test_leaving_layers_out_too_early_would_show(monkeypatch):
    """The runs above tell a shortening that is too short from one that is not."""
    shortened = reserved(RUNS["grpo-lora"])
    monkeypatch.setattr(whole, "WHOLE_LAYERS", 0)
    assert abs(reserved(RUNS["grpo-lora"])["train"] / shortened["train"] - 1) > 1e-3
