from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vramplan.core.run import Quantization, Run
from vramplan.dtypes import DType
from vramplan.program.device_kind import DeviceKind
from vramplan.program.oracle import trace
from vramplan.program.oracle_cli import main
from vramplan.program.workload import Loop


def test_the_command_prints_peaks_and_what_is_alive(
    tmp_path: Path, tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(tiny), encoding="utf-8")
    events = tmp_path / "events.tsv"
    main([str(path), "--max-seq-length", "32", "--gradient-checkpointing", "--dump", "--events", str(events)])
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()[:4]] == ["load", "forward", "backward", "optimizer"]
    assert "nll_loss_backward" in printed
    assert "base_model.model.model.layers.*" in printed
    lines = events.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# load"
    assert sum(line.startswith("#") for line in lines) == 7


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"checkpointing": True}, {}),
        ({"rows": 2}, {"rows": 3}),
        ({"tokens": 64}, {"tokens": 128}),
        ({"attention": "sdpa"}, {"attention": "eager", "tokens": 65}),
        ({"attention": "flash_attention_2"}, {"attention": "eager"}),
        ({"optim": "sgd", "tuning": "full"}, {"optim": "adamw_torch", "tuning": "full"}),
        ({"optim": "paged_adamw_8bit", "tuning": "full"}, {"optim": "adamw_8bit", "tuning": "full"}),
        ({"tuning": "lora"}, {"tuning": "full"}),
        ({"quantization": Quantization.NF4}, {"dtype": DType.FP32}),
    ],
    ids=str,
)
def test_what_should_cost_less_does(
    tiny: dict[str, Any], make_run: Callable[..., Run], less: dict[str, Any], more: dict[str, Any]
) -> None:
    wide = {
        **tiny,
        "hidden_size": 256,
        "vocab_size": 4000,
        "num_hidden_layers": 2,
    }  # states of more than the 1e5 elements that are paged
    assert trace(wide, make_run(**less)).peak_allocated_bytes() <= trace(wide, make_run(**more)).peak_allocated_bytes()


def test_fused_adam_needs_no_temporaries(tiny: dict[str, Any], make_run: Callable[..., Run]) -> None:
    def step(optim: str) -> int:
        return dict(trace(tiny, make_run(tuning="full", optim=optim)).peaks())["optimizer.2"]

    assert step("adamw_torch_fused") < step("adamw_torch")


def test_gradients_that_accumulate_live_through_the_next_forward(
    tiny: dict[str, Any], make_run: Callable[..., Run]
) -> None:
    run = make_run(tuning="full", dtype=DType.FP32, accumulation=2)
    peaks = dict(trace(tiny, run).peaks())
    elements = 5 * (2 * 128 * 128 + 2 * 64 * 128 + 3 * 256 * 128) + 1000 * 128 + 11 * 128
    workspace = DeviceKind.of(80).cublas_workspace_bytes  # of autograd's thread: there from the first backward on
    assert peaks["forward.2"] - peaks["forward"] == pytest.approx(4 * elements + workspace, rel=0.001)


def test_a_plain_loop_keeps_logits_that_a_trainer_drops(tiny: dict[str, Any], make_run: Callable[..., Run]) -> None:
    run = make_run()
    logits = 2 * 64 * 1000 * 2
    kept = trace(tiny, run, loop=Loop(style="step", clip=False)).peak_allocated_bytes("backward")
    dropped = trace(tiny, run, loop=Loop(style="trainer", clip=False)).peak_allocated_bytes("backward")
    assert kept - dropped == pytest.approx(logits, rel=0.01)


def test_padding_keeps_the_mask(tiny: dict[str, Any], make_run: Callable[..., Run]) -> None:
    run = make_run(tokens=256)
    padded = trace(tiny, run, loop=Loop(padded=True), with_labels=True)
    plain = trace(tiny, run, with_labels=True)
    assert any(label.dtype == "bool" and label.shape == (2, 1, 256, 256) for label in padded.labels)
    assert not any(label.shape == (2, 1, 256, 256) for label in plain.labels)
