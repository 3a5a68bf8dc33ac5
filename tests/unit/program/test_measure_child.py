"""A run on a CPU that counts as a card does: the same phases as the simulation's, and an out-of-memory as a result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from agreement_models import TINY_LLAMA

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from vramplan.allocator.config import AllocatorConfig
from vramplan.allocator.snapshot_reader import read_snapshot
from vramplan.catalog.dirs import profile_dirs
from vramplan.core.run import LoadSpec, Quantization
from vramplan.dtypes import DType
from vramplan.errors import NoHardwareError, UsageError
from vramplan.formula.setting import Setting
from vramplan.planner.answer import prepare
from vramplan.planner.simulated import as_autocast
from vramplan.program import checkpoint_folder
from vramplan.program.capped import CappedCpu
from vramplan.program.checkpoint_folder import load_checkpoint, write_random_checkpoint
from vramplan.program.child import _out_of_memory, run_task
from vramplan.program.cuda import CudaCounters, asked_for
from vramplan.program.device_watch import DeviceWatch
from vramplan.program.layers import Units
from vramplan.program.load import build_config, build_skeleton, materialise
from vramplan.program.phase_names import phase_of
from vramplan.program.simulate import simulate
from vramplan.program.task import Task
from vramplan.runfiles.flat import FlatRun
from vramplan.units import MiB

THREE = ("teacher", "student", "reference")


def _prepared(tmp_path: Path, roles: tuple[str, ...], **settings: Any) -> tuple[Setting, dict[str, dict[str, Any]]]:
    (tmp_path / "config.json").write_text(json.dumps(TINY_LLAMA), encoding="utf-8")
    names = {role: str(tmp_path) for role in roles}
    setting = prepare(FlatRun(**names, **settings), profile_dirs())[0]
    return setting, {role.name: TINY_LLAMA for role in setting.run.roles}


def _task(tmp_path: Path, roles: tuple[str, ...] = ("model",), **settings: Any) -> Task:
    how = {name: settings.pop(name) for name in ("capacity_bytes", "writes_checkpoints") if name in settings}
    setting, configs = _prepared(tmp_path, roles, **settings)
    values: dict[str, Any] = {
        "run": as_autocast(setting),
        "configs": configs,
        "stack": setting.stack,
        "checkpoints": {},
        "writes_checkpoints": False,
        "steps": 2,
        "device": "cpu",
        "allocator_conf": "",
        "capacity_bytes": None,
        "settle_seconds": 0.0,
        "snapshot": str(tmp_path / "snapshot.pickle"),
        "folder": str(tmp_path / "own"),
    }
    return Task(**values | how)


def _told(task: Task) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    run_task(task, lambda event: told.append(dict(json.loads(json.dumps(event)))))
    return told


def _phases(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in told if event["event"] == "phase"]


SMALL = {"max_prompt_length": 8, "max_completion_length": 8}


@pytest.mark.parametrize(
    ("roles", "settings"),
    [
        (("model",), SMALL),
        (("model",), {"method": "score", "max_seq_length": 8}),
        (("model",), {"method": "sft", "tuning": "full", "max_seq_length": 8, "mixed_precision": "bf16"}),
        (("model",), {"method": "dpo", "tuning": "lora", "per_device_batch_size": 1, **SMALL}),
        (
            ("model",),
            {"method": "grpo", "generations": 2, "batch_size": 4, "per_device_batch_size": 2, "beta": 0.1, **SMALL},
        ),
        (
            THREE,
            {
                "method": "rlt",
                "tuning": "full",
                "generations": 2,
                "batch_size": 4,
                "per_device_batch_size": 1,
                "offload": ("reference",),
                **SMALL,
            },
        ),
    ],
    ids=["inference", "score", "sft", "dpo", "grpo", "rlt"],
)
def test_every_method_takes_the_phases_of_its_simulation(
    tmp_path: Path, roles: tuple[str, ...], settings: dict[str, Any]
) -> None:
    if settings.get("method") in ("dpo", "grpo", "rlt"):
        pytest.importorskip("trl")
    task = _task(tmp_path, roles, **settings)
    told = _told(task)
    assert told[-1] == {"event": "end", "outcome": "done"}
    assert [event["phase"] for event in told if event["event"] == "mark"] == [one["phase"] for one in _phases(told)]
    measured = list(dict.fromkeys(phase_of(one["phase"]) for one in _phases(told)))
    setting, configs = _prepared(tmp_path, roles, **settings)
    found = simulate(as_autocast(setting), configs, gpu=setting.gpu, stack=setting.stack)
    assert measured == [phase.name for phase in found.phases]
    for one in _phases(told):
        assert one["end_allocated_bytes"] <= one["allocated_bytes"] <= one["reserved_bytes"]
        assert one["begin"] <= one["end"] <= one["settled"]
        assert one["num_ooms"] == 0


def test_loading_leaves_exactly_the_weights(tmp_path: Path) -> None:
    load = _phases(_told(_task(tmp_path, **SMALL)))[0]
    model = build_skeleton(build_config(TINY_LLAMA), LoadSpec(dtype=DType.BF16), "sdpa")
    tensors = [*model.parameters(), *model.buffers()]
    assert load["phase"] == "load"
    assert load["end_allocated_bytes"] == sum(-(-one.numel() * one.element_size() // 512) * 512 for one in tensors)


def test_the_second_update_has_the_states_of_the_first(tmp_path: Path) -> None:
    settings = {"method": "sft", "tuning": "full", "max_seq_length": 8, "optim": "adamw_torch"}
    forwards = [one for one in _phases(_told(_task(tmp_path, **settings))) if one["phase"] == "forward"]
    weights = build_skeleton(build_config(TINY_LLAMA), LoadSpec(dtype=DType.BF16), "sdpa")
    num_bytes = sum(one.numel() * one.element_size() for one in weights.parameters())
    gained = forwards[1]["end_allocated_bytes"] - forwards[0]["end_allocated_bytes"]
    assert 2 * num_bytes <= gained <= 2.1 * num_bytes  # two moments of each weight, and step counters


def test_an_out_of_memory_is_told_with_its_phase_and_a_snapshot(tmp_path: Path) -> None:
    capacity = 3 * MiB
    settings = {"method": "sft", "tuning": "lora", "max_seq_length": 128, "capacity_bytes": capacity}
    told = _told(_task(tmp_path, **settings))
    end = told[-1]
    assert (end["event"], end["outcome"], end["phase"]) == ("end", "out_of_memory", "forward")
    assert [one["phase"] for one in _phases(told)] == ["load"]
    assert end["allocated_bytes"] <= end["reserved_bytes"] <= capacity
    assert end["reserved_bytes"] + end["requested_bytes"] > capacity - 2 * MiB
    assert end["has_snapshot"] is True
    snapshot = read_snapshot(tmp_path / "snapshot.pickle")
    assert sum(segment.size_bytes for segment in snapshot.segments) == end["reserved_bytes"]


@pytest.mark.parametrize("quantization", [None, "nf4", "int8"])
def test_a_random_checkpoint_is_written_and_loaded(tmp_path: Path, quantization: str | None) -> None:
    if quantization is not None:
        pytest.importorskip("bitsandbytes")
    settings: dict[str, Any] = {"method": "sft", "tuning": "lora", "max_seq_length": 8, "writes_checkpoints": True}
    told = _told(_task(tmp_path, quantization=quantization, **settings))
    assert told[-1]["outcome"] == "done"
    assert list((tmp_path / "own" / "checkpoint-model").glob("*.safetensors"))


def test_a_random_checkpoint_holds_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_folder, "_SHARD", "40KB")
    monkeypatch.setattr(checkpoint_folder, "_PATTERN_ELEMENTS", 1000)  # less than a tensor: it must repeat
    folder = tmp_path / "new"
    write_random_checkpoint({**TINY_LLAMA, "tie_word_embeddings": False}, LoadSpec(dtype=DType.BF16), folder)
    assert (folder / "model.safetensors.index.json").exists()
    model = load_checkpoint(str(folder), LoadSpec(dtype=DType.BF16), "sdpa", torch.device("cpu"))
    assert {one.dtype for one in model.parameters()} == {torch.bfloat16}
    for name, one in model.named_parameters():
        assert 0.015 < one.float().std() < 0.025, name  # random everywhere: nothing was left as torch made it


def test_a_disk_without_room_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_folder.shutil, "disk_usage", lambda _: type("", (), {"free": 1000})())
    with pytest.raises(UsageError, match="has no room"):
        write_random_checkpoint(TINY_LLAMA, LoadSpec(dtype=DType.BF16), tmp_path / "new")


@pytest.mark.parametrize(
    ("quantization", "kind"),
    [(Quantization.NONE, "Parameter"), (Quantization.NF4, "Params4bit"), (Quantization.INT8, "Int8Params")],
)
def test_random_weights_are_what_transformers_would_have_loaded(quantization: Quantization, kind: str) -> None:
    pytest.importorskip("bitsandbytes")
    load = LoadSpec(dtype=DType.BF16, quantization=quantization)
    model = build_skeleton(build_config(TINY_LLAMA), load, "sdpa")
    counters = CappedCpu(None, AllocatorConfig())
    watch = DeviceWatch(counters, lambda _: None, empties=frozenset(), settle_seconds=0.0, vocabulary_size=512)
    forget = materialise(model, load, watch, Units())
    layer = model.model.layers[0].self_attn.q_proj
    assert type(layer.weight).__name__ == kind
    assert not any(one.is_meta for one in [*model.parameters(), *model.buffers()])
    logits = model(input_ids=torch.zeros((1, 4), dtype=torch.int64)).logits
    assert torch.isfinite(logits).all()
    assert logits.float().std() > 0
    assert model.model.rotary_emb.inv_freq[0] == 1.0  # computed, not random
    forget()
    assert all(one.is_meta for one in model.parameters())


@pytest.mark.parametrize("quantization", [Quantization.NONE, Quantization.NF4, Quantization.INT8])
def test_a_model_that_rests_on_the_host_leaves_nothing_behind(quantization: Quantization) -> None:
    pytest.importorskip("bitsandbytes")
    load = LoadSpec(dtype=DType.BF16, quantization=quantization)
    model = build_skeleton(build_config(TINY_LLAMA), load, "sdpa")
    counters = CappedCpu(None, AllocatorConfig())
    watch = DeviceWatch(counters, lambda _: None, empties=frozenset(), settle_seconds=0.0, vocabulary_size=512)
    held = []
    with counters, torch.no_grad():
        for _ in range(2):
            forget = materialise(model, load, watch, Units())
            model(input_ids=torch.zeros((1, 4), dtype=torch.int64))  # int8 modules take the codes to themselves here
            held.append(counters.read().end_allocated_bytes)
            forget()
            held.append(counters.read().end_allocated_bytes)
    # What stays is bitsandbytes' table of 4-bit values, once for the process, and a few constants.
    assert held[1] == held[3] < 10_000 < held[0]
    assert held[2] - held[0] < 10_000


def test_values_are_put_into_tensors_by_their_kind() -> None:
    counters = CappedCpu(None, AllocatorConfig())
    watch = DeviceWatch(counters, lambda _: None, empties=frozenset(), settle_seconds=0.0, vocabulary_size=3)
    ids, weights = torch.full((1000,), 9), torch.full((1000,), 9.0)
    mask, narrow = torch.ones(9, dtype=torch.bool), torch.ones(9, dtype=torch.float8_e4m3fn)
    for tensor in (ids, weights, mask, narrow):
        watch.fill(tensor)
    assert set(ids.tolist()) == {0, 1, 2}
    assert 0.01 < weights.std() < 0.03
    assert not mask.any()
    assert narrow.float().sum() == 0


def test_the_caching_model_gives_room_back_before_it_throws() -> None:
    counters = CappedCpu(24 * MiB, AllocatorConfig())
    with counters:
        big = torch.zeros(4 * MiB, dtype=torch.uint8)
        assert counters.read().end_allocated_bytes == 4 * MiB
        del big
        assert counters.read().end_allocated_bytes == 0
        assert counters.read().end_reserved_bytes == 20 * MiB
        kept = torch.zeros(22 * MiB, dtype=torch.uint8)  # no room beside the cached segment, which goes
        assert counters.read().num_alloc_retries == 1
        assert counters.read().end_reserved_bytes == kept.nbytes
        with pytest.raises(torch.OutOfMemoryError, match=r"Tried to allocate 16\.00 MiB"):
            torch.zeros(16 * MiB, dtype=torch.uint8)
    counts, refusal = counters.read(), counters.refusal()
    assert counts.num_ooms == 1
    assert counts.num_alloc_retries == 2
    assert refusal.requested_bytes == 16 * MiB
    assert not refusal.has_snapshot


def test_without_cuda_the_sentence_says_what_torch_says() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(NoHardwareError, match="reaches no GPU") as caught:
        CudaCounters()
    assert "simulate" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("message", "size"),
    [
        ("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.18 GiB", 5 * 2**29),
        ("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0", 20 * MiB),
        ("HIP out of memory. tried to allocate 512 bytes", 512),
        ("CUDA error: out of memory", None),
    ],
)
def test_the_size_asked_for_is_read_from_torchs_words(message: str, size: int | None) -> None:
    assert asked_for(message) == size


def test_libraries_that_run_out_beside_torch_are_out_of_memory_too() -> None:
    counters = CappedCpu(None, AllocatorConfig())
    cublas = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`\nmore")
    event = _out_of_memory(cublas, "forward", counters)
    assert event is not None
    assert (event["phase"], event["requested_bytes"], event["allocated_bytes"]) == ("forward", None, 0)
    assert event["message"] == "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    assert _out_of_memory(RuntimeError("shapes differ"), "forward", counters) is None
