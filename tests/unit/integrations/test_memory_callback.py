"""MemoryCallback in a real Trainer on a tiny model: on a CPU, and with counters that stand in for a GPU's."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vramplan.errors import UsageError
from vramplan.integrations._counters import Reading
from vramplan.integrations._ending import ending, ending_of
from vramplan.integrations._meter import Meter
from vramplan.records.record import Record, RecordGpu
from vramplan.records.store import read_records

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from vramplan.integrations.transformers import MemoryCallback  # noqa: E402

MIB = 2**20
_ROWS = [{"input_ids": [row % 64] * 12, "labels": [row % 64] * 12} for row in range(16)]


@pytest.fixture
def model() -> Any:
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=64,
    )
    return transformers.LlamaForCausalLM(config)


@pytest.fixture
def train(tmp_path: Path, model: Any) -> Callable[..., Any]:
    def call(*callbacks: Any, **more: Any) -> Any:
        settings = {
            "max_steps": 4,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "eval_strategy": "steps",
            "eval_steps": 2,
            "save_strategy": "no",
            "report_to": [],
            "use_cpu": True,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
        }
        args = transformers.TrainingArguments(output_dir=str(tmp_path), **(settings | more))
        trainer = transformers.Trainer(
            model=model, args=args, train_dataset=_ROWS, eval_dataset=_ROWS[:4], callbacks=list(callbacks)
        )
        return trainer.train()

    return call


class Counters:
    """A GPU's, by a script: each phase's peak is a number, and every call is counted."""

    def __init__(self) -> None:
        self.reads = self.resets = self.looks = 0

    def reset(self) -> None:
        self.resets += 1

    def read(self) -> Reading:
        self.reads += 1
        return Reading(
            allocated_bytes=(100 + self.reads % 5) * MIB,
            reserved_bytes=128 * MIB,
            end_allocated_bytes=90 * MIB,
            end_reserved_bytes=128 * MIB,
            num_alloc_retries=self.reads // 10,
            num_ooms=0,
        )

    def free_bytes(self) -> int:
        self.looks += 1
        return 700 * MIB


def _only(folder: Path) -> Record:
    (record,) = read_records(folder / "vramplan-records.jsonl")
    return record


@pytest.mark.filterwarnings("default")
def test_a_training_on_a_cpu_leaves_a_record(train: Callable[..., Any], tmp_path: Path) -> None:
    result = train(MemoryCallback(run={"model": "me/mine"}))
    assert result.global_step == 4
    record = _only(tmp_path)
    assert (record.how, record.device, record.outcome, record.steps) == ("callback", "cpu", "done", 4)
    assert {phase.name: phase.num_repeats for phase in record.phases} == {
        "load": 1,
        "train": 4,
        "optimizer": 4,
        "evaluate": 2,
    }
    for phase in record.phases:  # a CPU's memory is not a GPU's: null, never 0
        assert (phase.allocated_bytes, phase.reserved_bytes, phase.device_used_bytes) == (None, None, None)
    run = record.run
    assert (run["model"], run["method"], run["tuning"], run["dtype"]) == ("me/mine", "sft", "full", "fp32")
    assert (run["per_device_batch_size"], run["gradient_accumulation_steps"], run["max_seq_length"]) == (2, 2, 12)
    assert record.versions["transformers"] == transformers.__version__
    assert "trl" not in run["stack"]
    assert record.estimate is not None
    assert {"load", "train", "optimizer"} <= {phase.name for phase in record.estimate.phases}


@pytest.mark.filterwarnings("default")
def test_each_phase_is_read_once_and_nothing_waits(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def forbidden(*_: Any) -> None:
        raise AssertionError("the device was waited for")

    monkeypatch.setattr(torch.cuda, "synchronize", forbidden)
    callback, counters = MemoryCallback(), Counters()
    callback._counters = counters
    callback._card = RecordGpu(name="NVIDIA H100 80GB HBM3", profile="h100-80gb")
    callback._meter = Meter(counters, used_by_free=lambda free: 1000 * MIB - free)
    train(callback, max_steps=6, eval_strategy="no")
    assert counters.reads == 1 + 2 * 6  # the load, then the two phases of each step
    assert counters.looks == 3  # reserved memory grew once in each phase's life
    record = _only(tmp_path)
    train_phase, optimizer = record.phase("train"), record.phase("optimizer")
    assert train_phase is not None
    assert optimizer is not None
    assert record.device == "cuda"
    assert train_phase.allocated_bytes == 104 * MIB  # the highest of its repetitions
    assert train_phase.num_repeats == 6
    assert (train_phase.reserved_bytes, train_phase.device_used_bytes) == (128 * MIB, 300 * MIB)
    assert (train_phase.num_alloc_retries or 0) + (optimizer.num_alloc_retries or 0) == 1
    assert record.run["gpu"] == "h100-80gb"


def test_seconds_are_those_of_all_repetitions() -> None:
    ticks = iter([0.0, 10.0, 11.5, 20.0, 22.0])
    meter = Meter(Counters(), clock=lambda: next(ticks))
    for _ in range(2):
        meter.begin("train")
        meter.end("train")
    (phase,) = meter.phases()
    assert (phase.seconds, phase.num_repeats) == (3.5, 2)


def test_a_setting_that_is_none_is_said_before_the_training() -> None:
    with pytest.raises(UsageError, match="colour"):
        MemoryCallback(run={"colour": "red"})


@pytest.mark.filterwarnings("default")
def test_what_cannot_be_written_is_said_once_and_training_goes_on(
    train: Callable[..., Any], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING, logger="vramplan"):
        result = train(MemoryCallback(tmp_path / "file" / "records.jsonl"))
    assert result.global_step == 4
    said = [one.getMessage() for one in caplog.records if one.name == "vramplan"]
    assert len(said) == 1
    assert "cannot be written" in said[0]


@pytest.mark.filterwarnings("default")
def test_a_defect_in_a_hook_ends_the_record_not_the_training(
    train: Callable[..., Any], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    class Broken(Counters):
        def read(self) -> Reading:
            raise RuntimeError("no statistics")

    callback = MemoryCallback()
    callback._meter = Meter(Broken())
    with caplog.at_level(logging.WARNING, logger="vramplan"):
        assert train(callback).global_step == 4
    said = [one.getMessage() for one in caplog.records if one.name == "vramplan"]
    assert said == ["vramplan: no record of this run: RuntimeError: no statistics"]
    assert not (tmp_path / "vramplan-records.jsonl").exists()


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*deprecated:FutureWarning")  # the names of before 5.23
def test_a_lora_run_is_described(train: Callable[..., Any], tmp_path: Path, model: Any) -> None:
    peft = pytest.importorskip("peft")
    from vramplan.integrations._settings import run_settings

    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["v_proj", "q_proj"]))
    args = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, optim="sgd", report_to=[])
    run, notes = run_settings(args, adapted, {"torch": "2.9", "trl": None}, {"context": 512})
    assert notes == ()
    assert (run["tuning"], run["lora_r"], run["lora_target_modules"]) == ("lora", 4, ["q_proj", "v_proj"])
    assert (run["adapter_dtype"], run["optim"], run["context"]) == ("fp32", "sgd", 512)
    assert run["gradient_checkpointing"] is False
    model.gradient_checkpointing_enable()
    assert run_settings(args, adapted, {}, {})[0]["gradient_checkpointing"] is True
    assert run["stack"] == {"torch": "2.9"}


@pytest.mark.filterwarnings("default")
def test_trls_arguments_say_the_method(tmp_path: Path, model: Any) -> None:
    trl = pytest.importorskip("trl")
    from vramplan.integrations._settings import run_settings

    args = trl.GRPOConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        report_to=[],
        per_device_train_batch_size=8,
        num_generations=4,
        bf16=False,
    )
    run, notes = run_settings(args, model, {"trl": trl.__version__}, {})
    assert notes == ()
    assert (run["method"], run["generations"], run["per_device_batch_size"]) == ("grpo", 4, 8)
    assert run["stack"] == {"trl": trl.__version__}


def test_a_callback_is_transformers_own_kind() -> None:
    assert issubclass(MemoryCallback, transformers.TrainerCallback)


@pytest.mark.filterwarnings("default")
def test_a_run_out_of_memory_leaves_what_it_had_when_python_ends(
    train: Callable[..., Any], tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    at_exit: list[Callable[[], None]] = []
    monkeypatch.setattr("atexit.register", at_exit.append)
    forward, calls = model.forward, []

    def fails(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has …")
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", fails)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        train(MemoryCallback(), remove_unused_columns=False, eval_strategy="no")
    assert not (tmp_path / "vramplan-records.jsonl").exists()
    monkeypatch.setattr(sys, "last_value", caught.value, raising=False)  # as Python does where nobody catches it
    for leave in at_exit:
        if "MemoryCallback" in getattr(leave, "__qualname__", ""):
            leave()
    record = _only(tmp_path)
    assert (record.outcome, record.stopped_in) == ("out_of_memory", "train")
    assert (record.message or "").startswith("OutOfMemoryError: CUDA out of memory.")
    assert {phase.name: phase.num_repeats for phase in record.phases} == {"load": 1, "train": 2, "optimizer": 2}
    assert record.out_of_memory is not None
    assert (record.out_of_memory.phase, record.out_of_memory.requested_bytes) == ("train", 3 * 2**29)
    assert record.out_of_memory.allocated_bytes is None  # a CPU counts nothing


def test_endings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "last_value", None, raising=False)
    assert ending().outcome == "interrupted"  # the process leaves, and no exception was printed
    monkeypatch.setattr(sys, "last_value", ValueError("a"), raising=False)
    assert ending().message == "ValueError: a"
    assert ending_of(KeyboardInterrupt()).outcome == "interrupted"
    failed = ending_of(ValueError("a\nb"))
    assert (failed.outcome, failed.message) == ("failed", "ValueError: a")


def test_vramplan_alone_imports_no_integration() -> None:
    code = "import vramplan, vramplan.cli.app, sys, json; print(json.dumps([n for n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    loaded = json.loads(done.stdout)
    assert "vramplan.integrations" not in loaded
    assert "transformers" not in loaded


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity_warning()
