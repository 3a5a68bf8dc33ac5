"""What is measured is what is simulated: the same way of loading, as many updates; and an end is always told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from agreement_models import TINY_LLAMA

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("bitsandbytes")

import torch

from vramplan.allocator.config import AllocatorConfig
from vramplan.catalog.dirs import profile_dirs
from vramplan.core.run import LoadSpec, Quantization, Run
from vramplan.core.stack import Stack
from vramplan.dtypes import DType
from vramplan.formula.setting import warms_up
from vramplan.planner.answer import prepare
from vramplan.planner.simulated import as_autocast
from vramplan.program import checkpoint_folder
from vramplan.program.capped import CappedCpu
from vramplan.program.checkpoint_folder import load_checkpoint, write_random_checkpoint
from vramplan.program.child import run_task
from vramplan.program.cuda import CudaCounters
from vramplan.program.methods import Program
from vramplan.program.simulate import default_loop, simulate
from vramplan.program.task import Task
from vramplan.runfiles.flat import FlatRun
from vramplan.units import MiB

TINY = {**TINY_LLAMA, "tie_word_embeddings": False}
FULL = {"method": "sft", "tuning": "full", "max_seq_length": 8, "per_device_batch_size": 1}


def _setting(tmp_path: Path, **settings: Any) -> Any:
    (tmp_path / "config.json").write_text(json.dumps(TINY), encoding="utf-8")
    return prepare(FlatRun(model=str(tmp_path), **settings), profile_dirs())[0]


def _task(tmp_path: Path, steps: int, **settings: Any) -> Task:
    setting = _setting(tmp_path, **settings)
    return Task(
        run=as_autocast(setting),
        configs={"model": TINY},
        stack=setting.stack,
        checkpoints={},
        writes_checkpoints=False,
        steps=steps,
        device="cpu",
        allocator_conf="",
        capacity_bytes=None,
        settle_seconds=0.0,
        snapshot=None,
        folder=str(tmp_path / "own"),
    )


@pytest.mark.parametrize("settings", [FULL, {**FULL, "tuning": "lora", "quantization": "nf4"}, {"method": "score"}])
def test_the_allocator_is_warmed_up_as_in_the_simulation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    seen = []
    load = Program.load

    def watched(self: Program, *, warms_up: bool) -> None:
        seen.append(warms_up)
        load(self, warms_up=warms_up)

    monkeypatch.setattr(Program, "load", watched)
    task = _task(tmp_path, 1, **{"max_seq_length": 8, **settings})
    run_task(task, lambda _: None)
    setting = _setting(tmp_path, **{"max_seq_length": 8, **settings})
    simulate(task.run, {"model": TINY}, gpu=setting.gpu, stack=setting.stack, num_updates=1)
    assert len(seen) >= 2
    assert len(set(seen)) == 1
    assert seen[0] is _expected(task.run, task.stack)


def _expected(run: Run, stack: Stack) -> bool:
    # A plain script moves what is not quantised from host memory; all else is loaded with a device map.
    moved = run.training is not None and run.roles[0].load.quantization is Quantization.NONE
    in_trainer = default_loop(run, stack).style == "trainer"
    assert warms_up(run, stack, in_trainer=in_trainer) is (stack.warms_up_allocator and not moved)
    return stack.warms_up_allocator and not moved


def test_one_update_is_simulated_as_one(tmp_path: Path) -> None:
    setting = _setting(tmp_path, **FULL, gradient_accumulation_steps=4)
    run, configs = as_autocast(setting), {"model": TINY}
    one = simulate(run, configs, gpu=setting.gpu, stack=setting.stack, num_updates=1)
    two = simulate(run, configs, gpu=setting.gpu, stack=setting.stack)
    assert simulate(run, configs, gpu=setting.gpu, stack=setting.stack, num_updates=2).phases == two.phases
    marks = [[mark.split(".")[0] for mark, _, _ in found.trace.spans()].count("optimizer") for found in (one, two)]
    assert marks == [1, 2]
    told: list[dict[str, Any]] = []
    run_task(_task(tmp_path, 1, **FULL, gradient_accumulation_steps=4), lambda event: told.append(dict(event)))
    measured = [event["phase"].split(".")[0] for event in told if event["event"] == "phase"]
    assert measured == [mark.split(".")[0] for mark, _, _ in one.trace.spans()]


@pytest.mark.parametrize("quantization", [Quantization.NONE, Quantization.NF4])
def test_a_checkpoint_is_moved_only_where_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantization: Quantization
) -> None:
    write_random_checkpoint(TINY, LoadSpec(dtype=DType.BF16), tmp_path / "c")
    asked = []
    load = checkpoint_folder.AutoModelForCausalLM.from_pretrained

    def watched(*arguments: Any, **options: Any) -> Any:
        asked.append(options["device_map"][""])
        return load(*arguments, **{**options, "device_map": {"": "cpu"}})

    monkeypatch.setattr(checkpoint_folder.AutoModelForCausalLM, "from_pretrained", watched)
    how = LoadSpec(dtype=DType.BF16, quantization=quantization)
    device = torch.device("meta" if quantization is Quantization.NONE else "cpu")
    model = load_checkpoint(str(tmp_path / "c"), how, "sdpa", device, moves=True)
    assert asked == ["cpu"]
    assert {one.device.type for one in model.parameters()} == {device.type}


def test_an_out_of_memory_is_told_where_its_snapshot_finds_no_room(tmp_path: Path) -> None:
    counters = CappedCpu(4 * MiB, AllocatorConfig(), str(tmp_path / "no" / "folder" / "s.pickle"))
    with counters, pytest.raises(torch.OutOfMemoryError):
        torch.zeros(16 * MiB, dtype=torch.uint8)
    assert counters.refusal().requested_bytes == 16 * MiB
    assert not counters.refusal().has_snapshot


def test_torchs_observer_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 5)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 6)
    monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", full)
    counters = CudaCounters.__new__(CudaCounters)  # no device is needed for what the allocator calls
    counters._snapshot, counters._last = "s.pickle", None
    counters._observe(0, 7, 0, 0)
    held = counters.refusal()
    assert (held.requested_bytes, held.allocated_bytes, held.reserved_bytes) == (7, 5, 6)
    assert not held.has_snapshot
    monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", lambda _: None)
    counters._observe(0, 7, 0, 0)
    assert counters.refusal().has_snapshot
