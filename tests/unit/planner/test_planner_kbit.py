"""What TRL does to a quantised model by itself: by trainer and version, unless the user says."""

from __future__ import annotations

from typing import Any

import pytest

from vramplan.catalog.dirs import ProfileDirs, shipped_profiles
from vramplan.core.report import MemoryReport
from vramplan.core.run import LoadSpec, Lora
from vramplan.dtypes import DType
from vramplan.planner.answer import answer, prepare
from vramplan.runfiles.flat import parse_flat

DIRS = ProfileDirs(shipped=shipped_profiles())
SMALL = "Qwen/Qwen2.5-0.5B-Instruct"
BASE: dict[str, Any] = {
    "model": SMALL,
    "dtype": "bf16",
    "quantization": "nf4",
    "tuning": "lora",
    "mixed_precision": "bf16",
    "gpu": "l4",
}
SIZES = {"sft": {"max_seq_length": 64}, "dpo": {"context": 32}, "grpo": {"context": 32, "beta": 0, "generations": 2}}


def run(method: str, version: str | None, **over: object) -> dict[str, Any]:
    stack = {} if version is None else {"stack": {"trl": version}}
    return {**BASE, "method": method, **SIZES[method], **stack, **over}


def load_and_adapters(settings: dict[str, Any]) -> tuple[LoadSpec, Lora]:
    resolved = prepare(parse_flat(settings, ""), DIRS)[0].run
    assert resolved.training is not None
    assert resolved.training.lora is not None
    return resolved.trained.load, resolved.training.lora


def answered(settings: dict[str, Any]) -> MemoryReport:
    return answer(parse_flat(settings, ""), profile_dirs=DIRS)


@pytest.mark.parametrize(
    ("method", "version", "upcast", "norms_only", "adapters"),
    [
        ("sft", "0.13.0", True, False, DType.FP32),
        ("sft", "0.24.0", True, False, DType.FP32),
        ("sft", "0.25.1", True, True, DType.FP32),
        ("sft", "0.26.0", False, False, DType.BF16),
        ("sft", "1.16.0", False, False, DType.BF16),
        ("sft", None, False, False, DType.FP32),  # a loop of one's own
        ("dpo", "0.14.0", True, False, DType.FP32),
        ("dpo", "0.28.0", True, False, DType.FP32),
        ("dpo", "0.29.0", False, False, DType.BF16),
        ("grpo", "0.17.0", False, False, DType.FP32),
        ("grpo", "0.21.0", False, False, DType.FP32),
        ("grpo", "0.22.0", True, False, DType.FP32),
        ("grpo", "0.25.0", True, True, DType.FP32),
        ("grpo", "0.26.2", False, False, DType.BF16),
    ],
)
def test_which_trainer_prepares(
    method: str, version: str | None, upcast: bool, norms_only: bool, adapters: DType
) -> None:
    load, lora = load_and_adapters(run(method, version))
    assert (load.kbit_fp32_upcast, load.kbit_norms_only, lora.dtype) == (upcast, norms_only, adapters)
    assert load.kbit_bf16_embeddings is upcast  # 4-bit weights and bf16
    assert not load_and_adapters(run(method, version, quantization="none"))[0].kbit_fp32_upcast


@pytest.mark.parametrize("over", [{"quantization": "int8"}, {"mixed_precision": "no"}, {"mixed_precision": "fp16"}])
def test_embeddings_go_back_to_bf16_for_four_bits_and_bf16_only(over: dict[str, object]) -> None:
    load, _ = load_and_adapters(run("sft", "0.24.0", **over))
    assert load.kbit_fp32_upcast
    assert not load.kbit_bf16_embeddings


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("version", ["0.24.0", "1.16.0"])
def test_what_the_user_says_holds(said: bool, version: str) -> None:
    load, _ = load_and_adapters(run("grpo", version, kbit_fp32_upcast=said))
    assert (load.kbit_fp32_upcast, load.kbit_norms_only, load.kbit_bf16_embeddings) == (said, False, False)


def test_the_adapters_dtype_that_the_user_says_holds() -> None:
    assert load_and_adapters(run("sft", "1.16.0", adapter_dtype="fp32"))[1].dtype is DType.FP32
    assert load_and_adapters(run("sft", "0.24.0", adapter_dtype="bf16"))[1].dtype is DType.BF16


@pytest.mark.parametrize(("method", "prepared"), [("sft", False), ("grpo", False), ("dpo", True)])
def test_sharded_four_bit_weights_are_left_alone_but_by_dpo(method: str, prepared: bool) -> None:
    sharded = run(method, "0.24.0", num_gpus=2, sharding="fsdp_full_shard")
    assert load_and_adapters(sharded)[0].kbit_fp32_upcast is prepared
    assert load_and_adapters({**sharded, "quantization": "int8"})[0].kbit_fp32_upcast


def test_rlt_prepares_nothing_whatever_trl_is_there() -> None:
    settings = {**BASE, "method": "rlt", "context": 32, "stack": {"trl": "0.24.0"}}
    settings["teacher"] = settings.pop("model")
    load, lora = load_and_adapters(settings)
    assert not load.kbit_fp32_upcast
    assert lora.dtype is DType.FP32


def test_a_reference_of_its_own_is_not_prepared() -> None:
    settings = run("dpo", "0.28.0", reference="Qwen/Qwen2.5-1.5B-Instruct")
    reference = prepare(parse_flat(settings, ""), DIRS)[0].run.role("reference")
    assert reference is not None
    assert reference.shares is None
    assert not reference.load.kbit_fp32_upcast


def test_a_reference_that_is_the_policy_is_loaded_as_it_is() -> None:
    resolved = prepare(parse_flat(run("dpo", "0.28.0"), ""), DIRS)[0].run
    reference = resolved.role("reference")
    assert reference is not None
    assert reference.shares == resolved.trained.name
    assert reference.load == resolved.trained.load


def test_the_weights_are_what_the_casts_leave() -> None:
    plain, everything, norms = (
        answered(run("grpo", version, quantization="int8")).models[0].weights_bytes
        for version in ("0.21.0", "0.24.0", "0.25.0")
    )
    embedding, num_norms, biases = 151_936 * 896, (2 * 24 + 1) * 896, 24 * (896 + 2 * 128)
    assert everything - plain == 2 * (embedding + num_norms + biases)
    assert norms - plain == 2 * num_norms
    back, norms_back = (answered(run("grpo", version)).models[0].weights_bytes for version in ("0.24.0", "0.25.0"))
    assert back - norms_back == 2 * biases


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("version", ["0.24.0", "0.25.0", "1.16.0"])
def test_the_column_of_a_run_s_own_precision_is_its_weights(quantization: str, version: str) -> None:
    model = answered(run("grpo", version, quantization=quantization)).models[0]
    assert model.by_precision[quantization] == model.weights_bytes


def test_the_report_says_who_did_it() -> None:
    report = answered(run("dpo", "0.28.0", quantization="int8"))
    (warning,) = [one for one in report.warnings if one.rule == "VP016"]
    assert "trl 0.28.0" in warning.message
    assert "by itself" in warning.message
    assert "residual stream" in warning.message
    assert any("prepares quantised models by itself" in sentence for sentence in report.assumptions)
    (warning,) = [one for one in answered(run("dpo", "0.28.0")).warnings if one.rule == "VP016"]
    assert "residual stream" not in warning.message  # embeddings are bf16 again
    asked = answered(run("dpo", "0.28.0", kbit_fp32_upcast=True))
    (warning,) = [one for one in asked.warnings if one.rule == "VP016"]
    assert "by itself" not in warning.message
    assert not any("prepares quantised models by itself" in sentence for sentence in asked.assumptions)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("version", ["0.24.0", "0.25.0", "1.16.0"])
def test_the_inputs_of_a_report_give_it_again(quantization: str, version: str) -> None:
    report = answered(run("sft", version, quantization=quantization))
    again = {key: value for key, value in report.inputs.items() if key in {"kbit_fp32_upcast", "adapter_dtype"}}
    assert answered(run("sft", version, quantization=quantization, **again)).peak == report.peak
