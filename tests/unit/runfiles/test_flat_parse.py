"""Flat runs: what may be written, what is refused, and what comes back out."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramplan.errors import UsageError
from vramplan.runfiles.flat import FlatRun, parse_flat, parse_flat_flags
from vramplan.runfiles.flat_keys import ALIASES, KINDS, SWITCHES
from vramplan.runfiles.flat_kinds import Choice, Count, Number, Size, Switch, Versions, Words

NAMES = st.text("abcxyz_019/.-", min_size=1, max_size=12)
VERSIONS = st.from_regex(r"[0-9]{1,2}\.[0-9]{1,2}(\.[0-9]{1,2})?(rc[0-9])?(\+cu[0-9]{2,3})?", fullmatch=True)


def _values(key: str) -> st.SearchStrategy[Any]:
    kind = KINDS[key]
    if isinstance(kind, Choice):
        return st.sampled_from(kind.known)
    if isinstance(kind, Words):
        words = st.sampled_from(kind.known) if kind.known else NAMES
        return st.lists(words, unique=True, min_size=0 if key == "offload" else 1, max_size=4).map(tuple)
    if isinstance(kind, Versions):
        return st.dictionaries(st.sampled_from(kind.known), VERSIONS, max_size=4)
    if isinstance(kind, Number):
        return st.floats(min_value=1e-6, max_value=1.0)
    if isinstance(kind, (Count, Size)):
        return st.integers(min_value=1, max_value=10**15)
    return st.booleans() if isinstance(kind, Switch) else NAMES


FLAT_RUNS = st.fixed_dictionaries({}, optional={key: _values(key) for key in KINDS}).map(lambda given: FlatRun(**given))


def test_every_key_is_a_field_in_the_same_order() -> None:
    assert [item.name for item in fields(FlatRun)] == list(KINDS)


def test_every_alias_stands_for_a_key() -> None:
    assert set(ALIASES.values()) | {key for key, _, _ in SWITCHES.values()} <= set(KINDS)
    assert not set(ALIASES) & set(KINDS)


@given(FLAT_RUNS)
def test_what_is_written_reads_back_the_same(run: FlatRun) -> None:
    assert parse_flat(json.loads(json.dumps(run.to_dict())), "x") == run


@given(FLAT_RUNS)
def test_only_what_was_given_is_written(run: FlatRun) -> None:
    assert set(run.to_dict()) == {item.name for item in fields(run) if getattr(run, item.name) is not None}


@given(FLAT_RUNS)
def test_dashes_and_underscores_mean_the_same(run: FlatRun) -> None:
    assert parse_flat({key.replace("_", "-"): value for key, value in run.to_dict().items()}, "x") == run


@pytest.mark.parametrize(
    ("written", "key", "value"),
    [
        ({"num_generations": 16}, "generations", 16),
        ({"per_device_train_batch_size": 2}, "per_device_batch_size", 2),
        ({"train_batch_size": 64}, "batch_size", 64),
        ({"load_in_8bit": True}, "quantization", "int8"),
        ({"8bit": True}, "quantization", "int8"),
        ({"load_in_4bit": True}, "quantization", "nf4"),
        ({"4bit": True}, "quantization", "nf4"),
        ({"load_in_4bit": True, "quantization": "fp4"}, "quantization", "fp4"),
        ({"load_in_4bit": True, "load_in_8bit": False}, "quantization", "nf4"),
        ({"load_in_8bit": False}, "quantization", "none"),
        ({"quantization": "8bit"}, "quantization", "int8"),
        ({"lora_rank": 8}, "lora_r", 8),
        ({"max_length": 512}, "max_seq_length", 512),
        ({"bf16": True}, "mixed_precision", "bf16"),
        ({"fp16": True, "bf16": False}, "mixed_precision", "fp16"),
        ({"bf16": False}, "mixed_precision", "no"),
        ({"torch_dtype": "bfloat16"}, "dtype", "bf16"),
        ({"dtype": "torch.float16"}, "dtype", "fp16"),
        ({"attn": "FLASH-ATTENTION-2"}, "attn_implementation", "flash_attention_2"),
        ({"as": "llama"}, "architecture", "llama"),
        ({"lora_target_modules": "q_proj, v_proj"}, "lora_target_modules", ("q_proj", "v_proj")),
        ({"offload": []}, "offload", ()),
        ({"offload": "none"}, "offload", ()),
        ({"rollout": "vllm_colocate"}, "rollout", "vllm-colocate"),
        ({"beta": 0}, "beta", 0.0),
        ({"gpu_mem": 85}, "gpu_mem", 85 * 10**9),
        ({"gpu_mem": 85.5}, "gpu_mem", 85_500_000_000),
        ({"gpu_mem": "81559MiB"}, "gpu_mem", 81559 * 2**20),
        ({"stack": {"bnb": "0.43.3"}}, "stack", {"bitsandbytes": "0.43.3"}),
        ({"stack": {"torch": "2.10.0+cu128"}}, "stack", {"torch": "2.10.0+cu128"}),
        ({"stack": {}}, "stack", {}),
        ({"batch_size": None, "context": 8}, "context", 8),
    ],
)
def test_other_spellings(written: dict[str, Any], key: str, value: object) -> None:
    assert parse_flat(written, "x") == FlatRun(**{key: value})


@pytest.mark.parametrize(
    ("written", "message", "hint"),
    [
        ({"modle": "x"}, "x: 'modle' is not a setting of a run", "the nearest is model"),
        (
            {"quantization": "nf5"},
            "x: quantization must be one of none, int8, nf4, fp4, not 'nf5'",
            "the nearest is nf4",
        ),
        ({"batch_size": "64"}, "x: batch_size must be a whole number of at least 1, not '64'", None),
        ({"batch_size": True}, "x: batch_size must be a whole number of at least 1, not True", None),
        ({"batch_size": 0}, "x: batch_size must be a whole number of at least 1, not 0", None),
        ({"batch_size": 1.5}, "x: batch_size must be a whole number of at least 1, not 1.5", None),
        ({"double_quant": 1}, "x: double_quant must be true or false, not 1", None),
        ({"load_in_8bit": "yes"}, "x: load_in_8bit must be true or false, not 'yes'", None),
        ({"beta": -0.1}, "x: beta must be a number of at least 0, not -0.1", None),
        ({"beta": 10**400}, f"x: beta must be a number of at least 0, not {10**400}", None),
        ({"gpu_mem": 0}, "x: gpu_mem must be a size like 85, 85GB, 80GiB or 81559MiB, not 0", None),
        ({"model": " "}, "x: model must be a text, not ' '", None),
        ({"lora_target_modules": []}, "x: lora_target_modules must be a list of names, not []", None),
        ({"offload": ["teacher"]}, "x: offload must be a list of reference and student, not ['teacher']", None),
        (
            {"vllm_gpu_memory_utilization": 1.2},
            "x: vllm_gpu_memory_utilization must be a number of more than 0 and at most 1, not 1.2",
            None,
        ),
        (
            {"generations": 2, "num_generations": 4},
            "x: generations and num_generations are the same setting",
            "give one of them",
        ),
        (
            {"load_in_8bit": True, "load_in_4bit": True},
            "x: load_in_8bit and load_in_4bit ask for different things (int8 and nf4)",
            "give one of them",
        ),
        (
            {"quantization": "none", "8bit": True},
            "x: quantization and 8bit ask for different things (none and int8)",
            "give one of them",
        ),
        ({"quantization": "fp4", "4bit": False}, "x: quantization asks for fp4 and 4bit denies it", "give one of them"),
        ({"bf16": True, "fp16": True}, "x: bf16 and fp16 ask for different things (bf16 and fp16)", "give one of them"),
    ],
)
def test_what_is_refused_is_named(written: dict[str, Any], message: str, hint: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        parse_flat(written, "x")
    assert (caught.value.message, caught.value.hint) == (message, hint)


@pytest.mark.parametrize("version", ["", "latest", "4.", "4..1", "1" + "a" * 60 + "!", 4.51, None])
def test_versions_are_versions(version: object) -> None:
    with pytest.raises(UsageError, match="stack must be package=version"):
        parse_flat({"stack": {"trl": version}}, "x")


def test_one_package_under_two_names_is_refused() -> None:
    with pytest.raises(UsageError, match="stack must be"):
        parse_flat({"stack": {"bnb": "0.43.3", "bitsandbytes": "0.44.0"}}, "x")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_are_finite(number: float) -> None:
    with pytest.raises(UsageError, match="beta must be a number"):
        parse_flat({"beta": number}, "x")


def test_flags_are_texts_and_messages_name_them() -> None:
    given = {"batch-size": "64", "stack": "bnb==0.43.3, trl=0.14.0", "beta": "0.04", "vllm-sleep": False, "4bit": True}
    run = parse_flat_flags(given)
    assert run.to_dict() == {
        "quantization": "nf4",
        "batch_size": 64,
        "vllm_sleep": False,
        "beta": 0.04,
        "stack": {"trl": "0.14.0", "bitsandbytes": "0.43.3"},
    }
    with pytest.raises(UsageError, match="--batch-size must be a whole number of at least 1, not '6_4'"):
        parse_flat_flags({"batch-size": "6_4"})
    with pytest.raises(UsageError, match="--8bit and --4bit ask for different things"):
        parse_flat_flags({"8bit": True, "4bit": True})


@pytest.mark.parametrize(
    "values", [{"batch_size": 0}, {"gpu_mem": 1.5}, {"dtype": "bfloat16"}, {"offload": ["student"]}]
)
def test_a_flat_run_cannot_be_built_wrong(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        FlatRun(**values)


def test_every_measured_row_parses(shared: Path) -> None:
    for line in (shared / "truth" / "runs.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert parse_flat(row["run"], row["id"]).model == row["run"]["model"]


def test_blanks_around_a_text_are_dropped() -> None:
    assert parse_flat({"model": " a ", "stack": {"trl": "0.14.0 "}}, "x").to_dict() == {
        "model": "a",
        "stack": {"trl": "0.14.0"},
    }
