"""Routed experts before and after transformers 5 fused them: the same elements, in other modules."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from vramplan.archs import read_model
from vramplan.core.model import ModelShape, ModuleKind

_COMMON: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MIXTRAL = {**_COMMON, "model_type": "mixtral", "num_local_experts": 6}
QWEN3_MOE = {**_COMMON, "model_type": "qwen3_moe", "num_experts": 6, "moe_intermediate_size": 24}
DEEPSEEK = {**_COMMON, "model_type": "deepseek_v3", "n_routed_experts": 6, "moe_intermediate_size": 24}
GPT_OSS = {**_COMMON, "model_type": "gpt_oss", "num_local_experts": 6}


def elements_by_kind(shape: ModelShape, *, fused: bool) -> Counter[ModuleKind]:
    found: Counter[ModuleKind] = Counter()
    for weight in shape.weights(fused_experts=fused):
        found[weight.kind] += weight.total_elements
    return found


@pytest.mark.parametrize("config", [MIXTRAL, QWEN3_MOE, DEEPSEEK, GPT_OSS], ids=lambda config: config["model_type"])
def test_the_total_does_not_depend_on_the_version(config: dict[str, Any]) -> None:
    shape = read_model(config)
    fused, before = (elements_by_kind(shape, fused=flag) for flag in (True, False))
    assert sum(fused.values()) == sum(before.values()) == shape.num_parameters


@pytest.mark.parametrize(
    ("config", "names"),
    [(MIXTRAL, ("w1", "w3", "w2")), (QWEN3_MOE, ("gate_proj", "up_proj", "down_proj"))],
    ids=["mixtral", "qwen3_moe"],
)
def test_before_v5_each_expert_and_the_router_were_linear(config: dict[str, Any], names: tuple[str, ...]) -> None:
    shape = read_model(config)
    before = elements_by_kind(shape, fused=False)
    assert before[ModuleKind.EXPERTS] == before[ModuleKind.ROUTER] == 0
    assert elements_by_kind(shape, fused=True)[ModuleKind.ROUTER] == 4 * 6 * 64
    experts = [w for w in shape.weights(fused_experts=False) if w.module.startswith("mlp.experts.")]
    assert [weight.module.rsplit(".")[-1] for weight in experts] == list(names)
    assert {weight.count for weight in experts} == {4 * 6}


def test_deepseek_s_router_never_was_linear_though_its_experts_were() -> None:
    before = elements_by_kind(read_model(DEEPSEEK), fused=False)
    assert before[ModuleKind.EXPERTS] == 0
    assert before[ModuleKind.ROUTER] == 6 * 64  # one sparse layer after three dense ones


def test_gpt_oss_is_fused_in_every_version() -> None:
    shape = read_model(GPT_OSS)
    assert shape.weights(fused_experts=False) == shape.weights(fused_experts=True)


def test_a_4_bit_qwen3_moe_keeps_most_of_itself_only_since_v5() -> None:
    config = {
        **QWEN3_MOE,
        "vocab_size": 151936,
        "hidden_size": 2048,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 128,
        "moe_intermediate_size": 768,
    }
    shape = read_model(config)  # Qwen/Qwen3-30B-A3B
    fused, before = (elements_by_kind(shape, fused=flag) for flag in (True, False))
    assert fused[ModuleKind.EXPERTS] == 48 * 128 * 3 * 2048 * 768
    assert before[ModuleKind.LINEAR] == fused[ModuleKind.LINEAR] + fused[ModuleKind.EXPERTS] + 48 * 128 * 2048
