"""`vramplan measure --rollout vllm-colocate`: a real process, with a stand-in for the package."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agreement_models import TINY_LLAMA

from vramplan.planner.bench import TEST_DEVICE
from vramplan.records.record import Record
from vramplan.records.store import read_records

REPOSITORY = Path(__file__).resolve().parents[2]
RUN = (
    *("--method", "grpo", "--tuning", "lora", "--generations", "2", "--batch-size", "4"),
    *("--per-device-batch-size", "4", "--max-prompt-length", "8", "--max-completion-length", "6", "--no-simulate"),
)
HELD, TRANSIENT = 8 << 20, 1 << 20  # of the stand-in: weights and cache; what it makes while it generates


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    pytest.importorskip("torch")
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("trl")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TINY_LLAMA), encoding="utf-8")
    monkeypatch.setenv(TEST_DEVICE, "cpu")
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    return str(folder)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in as pip would have installed it, for this process and the measuring one."""
    folder = tmp_path / "packages"
    (folder / "vllm").mkdir(parents=True)
    standin = REPOSITORY / "tests" / "unit" / "program" / "vllm_standin.py"
    (folder / "vllm" / "__init__.py").write_text(standin.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "vllm-0.31.0.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: vllm\nVersion: 0.31.0\n"
    (folder / "vllm-0.31.0.dist-info" / "METADATA").write_text(metadata, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(REPOSITORY)]))
    monkeypatch.setenv("VLLM_STANDIN_LOG", str(tmp_path / "calls.jsonl"))


def _measured(vramplan: Callable[..., Any], tmp_path: Path, *arguments: str) -> tuple[Record, dict[str, Any]]:
    path = tmp_path / "records.jsonl"
    said = vramplan("measure", *arguments, *RUN, "--json", "--output", str(path))
    assert said.code == 0, said.err
    return read_records(path)[-1], json.loads(said.out)


@pytest.mark.usefixtures("installed")
def test_the_runs_own_numbers_are_those_without_the_engine(
    vramplan: Callable[..., Any], model: str, tmp_path: Path
) -> None:
    without, _ = _measured(vramplan, tmp_path, model, "--rollout", "vllm-server")
    assert without.engine is None
    for sleep in ((), ("--vllm-sleep",)):
        share = ("--vllm-gpu-memory-utilization", "0.25")
        record, report = _measured(vramplan, tmp_path, model, "--rollout", "vllm-colocate", *share, *sleep)
        assert record.engine is not None
        assert (record.engine.name, record.engine.version, record.engine.sleeps) == ("vllm", "0.31.0", bool(sleep))
        assert record.engine.allocated_bytes == HELD
        assert record.versions["vllm"] == "0.31.0"
        _check_phases(record, without)
        assert any("taken off from the engine's start on" in note for note in record.notes)
        assert any("taken off from the engine's start on" in note for note in report["assumptions"])
        held = {phase["name"]: phase["components"]["rollout_engine"] for phase in report["phases"]}
        assert held["load"] == held["rollout"] == record.engine.reserved_bytes
        assert held["train"] == (0 if sleep else record.engine.reserved_bytes)


def _check_phases(record: Record, without: Record) -> None:
    assert [phase.name for phase in record.phases] == [phase.name for phase in without.phases]
    for own, other in zip(record.phases, without.phases, strict=True):
        assert own.allocated_bytes is not None
        assert other.allocated_bytes is not None
        assert own.reserved_bytes is not None
        if own.name == "rollout":
            assert own.allocated_bytes >= other.allocated_bytes + TRANSIENT
        else:
            assert own.allocated_bytes == other.allocated_bytes, own.name
        assert own.end_allocated_bytes == other.end_allocated_bytes
        assert own.reserved_bytes >= own.allocated_bytes


@pytest.mark.usefixtures("installed")
def test_an_engine_without_room_is_a_result(
    vramplan: Callable[..., Any], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "Free memory on device cuda:0 is less than desired GPU memory utilization (0.9, 72 GiB)"
    monkeypatch.setenv("VLLM_STANDIN_REFUSES", words)
    path = tmp_path / "records.jsonl"
    said = vramplan("measure", model, "--rollout", "vllm-colocate", *RUN, "--output", str(path))
    assert said.code == 3, said.err
    (record,) = read_records(path)
    assert (record.outcome, record.stopped_in, record.message) == ("out_of_memory", "load", f"vLLM: {words}")
    assert [phase.name for phase in record.phases] == ["load"]  # what the models took is there


def test_without_the_package_one_sentence_says_what_to_install(vramplan: Callable[..., Any], model: str) -> None:
    from importlib.util import find_spec

    if find_spec("vllm") is not None:
        pytest.skip("vLLM is installed")
    said = vramplan("measure", model, "--rollout", "vllm-colocate", *RUN)
    assert said.code == 5
    assert said.out == ""
    assert said.err.splitlines()[-2:] == [
        "error: a colocated rollout needs vLLM, which is not installed",
        "hint: python3 -m pip install 'trl[vllm]'; or measure the rest with --rollout vllm-server, or hf",
    ]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--8bit",), "vLLM does not support in-flight 8-bit quantisation"),
        (("--4bit", "--weights", "random"), "vLLM makes its 4-bit weights from a checkpoint only"),
    ],
)
def test_what_the_engine_cannot_serve_is_refused(
    vramplan: Callable[..., Any], model: str, arguments: tuple[str, ...], sentence: str
) -> None:
    said = vramplan("measure", model, "--rollout", "vllm-colocate", *RUN, *arguments)
    assert said.code == 4
    assert sentence in said.err
    assert "measuring" not in said.err
