"""A colocated vLLM, with a stand-in for the package: what is asked of it, in which order, and what is counted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agreement_models import TINY_LLAMA

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from vramplan.catalog.dirs import profile_dirs
from vramplan.formula.setting import Setting
from vramplan.planner.answer import prepare
from vramplan.planner.simulated import as_autocast
from vramplan.program.child import run_task
from vramplan.program.phase_names import phase_of
from vramplan.program.simulate import simulate
from vramplan.program.task import Task
from vramplan.runfiles.flat import FlatRun

RUN: dict[str, Any] = {
    "method": "grpo",
    "rollout": "vllm-colocate",
    "generations": 2,
    "batch_size": 4,
    "per_device_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "max_prompt_length": 8,
    "max_completion_length": 6,
    "vllm_gpu_memory_utilization": 0.25,
    "stack": {"trl": "1.14.0"},  # the newest whose loss is run without trl
}
HELD = 8 << 20  # the stand-in's weights and cache


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """A stand-in on the path; gives what was asked of it so far."""
    folder, log = tmp_path / "packages", tmp_path / "calls.jsonl"
    (folder / "vllm").mkdir(parents=True)
    standin = Path(__file__).with_name("vllm_standin.py")
    (folder / "vllm" / "__init__.py").write_text(standin.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("vllm", None)
    monkeypatch.setenv("VLLM_STANDIN_LOG", str(log))
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "VLLM_NO_USAGE_STATS"):
        monkeypatch.setenv(name, "")  # put back afterwards
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    yield lambda: [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    sys.modules.pop("vllm", None)


def _setting(tmp_path: Path, roles: tuple[str, ...] = ("model",), **settings: Any) -> Setting:
    (tmp_path / "config.json").write_text(json.dumps(TINY_LLAMA), encoding="utf-8")
    models = dict.fromkeys(roles, str(tmp_path))
    return prepare(FlatRun(**models, **RUN | settings), profile_dirs())[0]


def _told(tmp_path: Path, *, how: dict[str, Any] | None = None, **settings: Any) -> list[dict[str, Any]]:
    setting = _setting(tmp_path, **settings)
    values: dict[str, Any] = {
        "run": as_autocast(setting),
        "configs": {role.name: TINY_LLAMA for role in setting.run.roles},
        "stack": setting.stack,
        "checkpoints": {},
        "writes_checkpoints": False,
        "steps": 2,
        "device": "cpu",
        "allocator_conf": "",
        "capacity_bytes": None,
        "settle_seconds": 0.0,
        "snapshot": None,
        "folder": str(tmp_path / "own"),
    }
    told: list[dict[str, Any]] = []
    run_task(Task(**values | (how or {})), lambda event: told.append(dict(json.loads(json.dumps(event)))))
    return told


def test_the_engine_is_built_as_trl_builds_it(tmp_path: Path, calls: Callable[[], list[dict[str, Any]]]) -> None:
    told = _told(tmp_path, tuning="full", how={"max_model_length": 24})
    assert told[-1]["outcome"] == "done"
    first = calls()[0]
    assert first["call"] == "LLM"
    assert first["settings"] == {
        "tensor_parallel_size": 1,
        "gpu_memory_utilization": 0.25,
        "max_model_len": 24,
        "max_num_seqs": 4,
        "enable_sleep_mode": False,
        "model_impl": "auto",
        "distributed_executor_backend": "external_launcher",
        "seed": 0,
        "max_num_batched_tokens": 4096,
        "logprobs_mode": "processed_logprobs",
        "quantization": None,
        "trust_remote_code": False,
        "skip_tokenizer_init": True,
        "load_format": "dummy",
    }
    assert first["variables"] == {"RANK": "0", "WORLD_SIZE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    assert first["config"]["architectures"] == ["LlamaForCausalLM"]
    assert {key: first["config"][key] for key in ("model_type", "hidden_size", "num_hidden_layers")} == {
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": 2,
    }


def test_an_engine_that_is_awake_only_takes_weights_and_generates(
    tmp_path: Path, calls: Callable[[], list[dict[str, Any]]]
) -> None:
    _told(tmp_path, tuning="full")
    names = [one["call"] for one in calls() if one["call"] != "load_weights"]
    assert names == ["LLM", "reset_prefix_cache", "generate", "reset_prefix_cache", "generate"]
    generated = next(one for one in calls() if one["call"] == "generate")
    assert generated["sampling"] == {
        "n": 1,
        "repetition_penalty": 1.0,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "max_tokens": 6,
        "logprobs": 0,
        "ignore_eos": True,
        "detokenize": False,
    }
    prompts = generated["prompts"]
    assert [len(ids) for ids in prompts] == [8] * 4
    assert prompts[0] == prompts[1] != prompts[2] == prompts[3]  # two completions of each
    assert all(0 <= token < 512 for ids in prompts for token in ids)
    assert generated["use_tqdm"] is False


def test_an_engine_that_sleeps_wakes_in_trls_order(tmp_path: Path, calls: Callable[[], list[dict[str, Any]]]) -> None:
    _told(tmp_path, tuning="full", vllm_sleep=True)
    said = [
        one["call"] + "".join(f" {value}" for key, value in one.items() if key in ("level", "tags"))
        for one in calls()
        if one["call"] != "load_weights"
    ]
    cycle = ["wake_up ['weights']", "reset_prefix_cache", "wake_up ['kv_cache']", "generate", "sleep 2"]
    assert said == ["LLM", "sleep 2", *cycle, *cycle]
    assert calls()[0]["settings"]["enable_sleep_mode"] is True
    woken = [one["call"] for one in calls()].index("wake_up")
    assert calls()[woken + 1]["call"] == "load_weights"  # into memory that is mapped again


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_the_trained_weights_come_under_the_checkpoints_names(
    tmp_path: Path, calls: Callable[[], list[dict[str, Any]]], tuning: str
) -> None:
    _told(tmp_path, tuning=tuning)
    names = [one["name"] for one in calls() if one["call"] == "load_weights"]
    assert len(names) == 2 * len(set(names))  # once a rollout
    assert "model.embed_tokens.weight" in names
    assert "model.layers.1.self_attn.q_proj.weight" in names
    assert not any("lora" in name or "base_layer" in name for name in names)


def test_a_checkpoint_is_what_the_engine_loads(tmp_path: Path, calls: Callable[[], list[dict[str, Any]]]) -> None:
    _told(tmp_path, tuning="full", how={"writes_checkpoints": True})
    first = calls()[0]
    assert first["model"] == str(tmp_path / "own" / "checkpoint-model")
    assert "load_format" not in first["settings"]


@pytest.mark.parametrize("sleeps", [False, True])
def test_the_engine_is_there_after_the_models_and_before_the_first_rollout(
    tmp_path: Path, calls: Callable[[], list[dict[str, Any]]], sleeps: bool
) -> None:
    told = _told(tmp_path, tuning="full", vllm_sleep=sleeps)
    marks = [one["phase"] if one["event"] == "mark" else one["event"] for one in told if one["event"] != "phase"]
    assert marks[3:8] == ["load", "load.engine", "engine", "rollout", "old_logprobs"]
    engine = next(one for one in told if one["event"] == "engine")
    assert engine["allocated_bytes"] == HELD
    assert engine["reserved_bytes"] >= HELD
    load, built, rollout, *_ = [one for one in told if one["event"] == "phase"]
    assert built["end_allocated_bytes"] == load["end_allocated_bytes"] + HELD  # no optimizer state yet
    assert rollout["allocated_bytes"] >= rollout["end_allocated_bytes"] + (1 << 20)  # what it makes meanwhile
    setting = _setting(tmp_path, tuning="full", vllm_sleep=sleeps)
    found = simulate(as_autocast(setting), {"model": TINY_LLAMA}, gpu=setting.gpu, stack=setting.stack)
    phases = [phase_of(one["phase"]) for one in told if one["event"] == "phase"]
    assert list(dict.fromkeys(phases)) == [phase.name for phase in found.phases]


def test_a_run_of_three_models_has_the_engine_of_its_teacher(
    tmp_path: Path, calls: Callable[[], list[dict[str, Any]]]
) -> None:
    roles = ("teacher", "student", "reference")
    told = _told(tmp_path, roles=roles, method="rlt", tuning="full", offload=("reference",))
    assert told[-1]["outcome"] == "done"
    assert [one["call"] for one in calls() if one["call"] in ("LLM", "generate")] == ["LLM", "generate", "generate"]
    phases = [phase_of(one["phase"]) for one in told if one["event"] == "phase"]
    assert list(dict.fromkeys(phases)) == [
        "load",
        "rollout",
        "score",
        "teacher_score",
        "reference",
        "train",
        "optimizer",
    ]


@pytest.mark.parametrize(
    "words",
    [
        "Free memory on device cuda:0 (1/80 GiB) on startup is less than desired GPU memory utilization (0.9, 72 GiB).",
        "No available memory for the cache blocks. Try increasing gpu_memory_utilization",
    ],
)
def test_no_room_for_the_engine_is_an_out_of_memory(
    tmp_path: Path, calls: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.setenv("VLLM_STANDIN_REFUSES", words)
    end = _told(tmp_path, tuning="full")[-1]
    assert (end["outcome"], phase_of(end["phase"]), end["requested_bytes"]) == ("out_of_memory", "load", None)
    assert end["message"] == f"vLLM: {words}".rstrip(".")


def test_what_vllm_cannot_serve_stays_its_own_error(
    tmp_path: Path, calls: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_STANDIN_REFUSES", "Model architectures ['X'] are not supported for now")
    with pytest.raises(ValueError, match="not supported for now"):
        _told(tmp_path, tuning="full")
