"""Launchers' files: accelerate's YAML and DeepSpeed's JSON; and our own TOML."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vramplan.errors import UsageError
from vramplan.runfiles.reader import read_run_file
from vramplan.runfiles.runfile import Tool

File = Callable[[str, str], Path]
ZERO3 = """\
compute_environment: LOCAL_MACHINE
debug: false
deepspeed_config:
  deepspeed_multinode_launcher: standard
  gradient_accumulation_steps: 8
  offload_optimizer_device: none
  zero_stage: 3
distributed_type: DEEPSPEED
mixed_precision: bf16
num_processes: 8
"""


def test_an_accelerate_file_places_a_run(file: File) -> None:
    run = read_run_file(file("zero3.yaml", ZERO3))
    assert (run.tool, run.unread) == (Tool.ACCELERATE, ())
    assert run.flat.to_dict() == {
        "mixed_precision": "bf16",
        "gradient_accumulation_steps": 8,
        "num_gpus": 8,
        "sharding": "zero3",
    }
    assert run.written["deepspeed_config.zero_stage"].place.line == 7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("distributed_type: NO\nnum_processes: 1\n", {"sharding": "none", "num_gpus": 1}),
        ("distributed_type: 'NO'\nmixed_precision: no\n", {"sharding": "none", "mixed_precision": "no"}),
        ("distributed_type: MULTI_GPU\nnum_processes: 4\n", {"sharding": "ddp", "num_gpus": 4}),
        ("distributed_type: FSDP\n", {"sharding": "fsdp_full_shard"}),
        ("distributed_type: FSDP\nfsdp_config:\n  fsdp_sharding_strategy: 1\n", {"sharding": "fsdp_full_shard"}),
        ("distributed_type: FSDP\nfsdp_config:\n  fsdp_sharding_strategy: NO_SHARD\n", {}),
        ("distributed_type: FSDP\nfsdp_config:\n  fsdp_reshard_after_forward: true\n", {"sharding": "fsdp_full_shard"}),
        ("distributed_type: DEEPSPEED\ndeepspeed_config:\n  zero_stage: 0\n", {"sharding": "ddp"}),
        ("distributed_type: DEEPSPEED\nmixed_precision: fp8\n", {}),
    ],
)
def test_what_each_placement_means(file: File, text: str, expected: dict[str, Any]) -> None:
    assert read_run_file(file("x.yaml", text)).flat.to_dict() == expected


def test_an_accelerate_file_may_name_a_deepspeed_one(file: File) -> None:
    file("ds.json", json.dumps({"zero_optimization": {"stage": 1}, "gradient_accumulation_steps": 4}))
    text = "distributed_type: DEEPSPEED\ndeepspeed_config:\n  deepspeed_config_file: ds.json\nnum_processes: 2\n"
    flat = read_run_file(file("x.yaml", text)).flat
    assert flat.to_dict() == {"sharding": "zero1", "gradient_accumulation_steps": 4, "num_gpus": 2}


def test_accelerate_has_no_such_key(file: File) -> None:
    run = read_run_file(file("x.yaml", "distributed_type: NO\nnum_gpus: 4\n"))
    assert [one.key for one in run.unread] == ["num_gpus"]


def test_a_deepspeed_file(file: File) -> None:
    values = {
        "train_batch_size": 64,
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": "auto",
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}},
    }
    run = read_run_file(file("ds.json", json.dumps(values, indent=1)))
    assert run.tool is Tool.DEEPSPEED
    assert run.flat.to_dict() == {
        "mixed_precision": "bf16",
        "batch_size": 64,
        "per_device_batch_size": 2,
        "sharding": "zero3",
    }


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.json", '{"zero_optimization": {"stage": 4}}', "1: zero_optimization.stage must be 0, 1, 2 or 3, not 4"),
        ("x.yaml", "distributed_type: NO\nmixed_precision: half\n", "2: mixed_precision must be one of"),
        ("x.yaml", "distributed_type: NO\nnum_processes: all\n", "2: num_processes must be a whole number"),
    ],
)
def test_a_wrong_kind_names_the_line_of_the_launcher_file(file: File, name: str, text: str, message: str) -> None:
    path = file(name, text)
    with pytest.raises(UsageError) as error:
        read_run_file(path)
    assert error.value.message.startswith(f"{path}:{message}")


OWN = 'description = "d"\nsource = "s"\n# a comment\nmodel = "m"\ngenerations = 4\nstack = { trl = "1.0.0" }\n'


def test_our_own_toml_is_read_with_and_without_its_description(file: File) -> None:
    run = read_run_file(file("own.toml", OWN))
    assert run.tool is Tool.OWN
    assert run.flat.to_dict() == {"model": "m", "generations": 4, "stack": {"trl": "1.0.0"}}
    assert run.written["generations"].place.line == 5
    assert read_run_file(file("bare.toml", OWN.partition("#")[2].partition("\n")[2])).flat == run.flat


def test_shipped_profiles_are_run_files() -> None:
    for path in sorted((Path(__file__).resolve().parents[3] / "profiles" / "runs").glob("*.toml")):
        assert read_run_file(path).flat.method == "rlt"
