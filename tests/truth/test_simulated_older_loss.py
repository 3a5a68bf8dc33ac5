"""A loss of 16-bit logits under autocast: the formulas against the real code with transformers 4.48's loss in it."""

from __future__ import annotations

import pytest

from vramplan.catalog.dirs import profile_dirs
from vramplan.core.report import MemoryReport
from vramplan.planner.answer import answer
from vramplan.planner.simulated import simulate_run
from vramplan.runfiles.flat import parse_flat

RUN = {
    "model": "bigcode/gpt_bigcode-santacoder",
    "method": "sft",
    "tuning": "full",
    "dtype": "fp32",
    "mixed_precision": "bf16",
    "optim": "sgd",  # so that the loss is the peak
    "gradient_checkpointing": False,
    "per_device_batch_size": 16,
    "max_seq_length": 512,
    "gpu": "a100-80gb",
    "stack": {"transformers": "4.48.1", "trl": "0.13.0"},
}


def train_bytes(report: MemoryReport) -> int:
    return next(phase.allocated_bytes for phase in report.phases if phase.name == "train")


@pytest.mark.parametrize("mixed_precision", ["bf16", "no"])
def test_estimate_and_simulation_hold_the_same_loss(mixed_precision: str) -> None:
    flat = parse_flat(RUN | {"mixed_precision": mixed_precision}, "test")
    estimated = train_bytes(answer(flat, profile_dirs=profile_dirs()))
    simulated = train_bytes(simulate_run(flat, profile_dirs=profile_dirs()).report)
    assert estimated == pytest.approx(simulated, rel=0.01)
