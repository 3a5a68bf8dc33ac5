"""A larger model never has fewer parameters, and its parts add up."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vramplan.archs import read_model

SIZES = ("vocab_size", "intermediate_size", "num_hidden_layers", "head_dim", "num_key_value_heads", "hidden_size")


@st.composite
def llamas(draw: st.DrawFn) -> dict[str, Any]:
    groups = draw(st.integers(1, 4))
    num_key_value_heads = draw(st.integers(1, 4))
    return {
        "model_type": "llama",
        "vocab_size": draw(st.integers(1, 300)),
        "hidden_size": draw(st.integers(1, 300)),
        "intermediate_size": draw(st.integers(1, 300)),
        "num_hidden_layers": draw(st.integers(1, 8)),
        "num_attention_heads": groups * num_key_value_heads,
        "num_key_value_heads": num_key_value_heads,
        "head_dim": draw(st.integers(1, 40)),
        "tie_word_embeddings": draw(st.booleans()),
        "attention_bias": draw(st.booleans()),
        "mlp_bias": draw(st.booleans()),
    }


@pytest.mark.parametrize("size", SIZES)
@settings(max_examples=40, deadline=None)
@given(config=llamas(), factor=st.integers(2, 4))
def test_larger_sizes_add_parameters(size: str, config: dict[str, Any], factor: int) -> None:
    larger = {**config, size: config[size] * factor}
    if size == "num_key_value_heads":  # keep the groups
        larger["num_attention_heads"] = config["num_attention_heads"] * factor
    assert read_model(larger).num_parameters > read_model(config).num_parameters


@pytest.mark.parametrize("switch", ["attention_bias", "mlp_bias"])
@settings(max_examples=40, deadline=None)
@given(config=llamas())
def test_biases_add_parameters(switch: str, config: dict[str, Any]) -> None:
    without, with_bias = (read_model({**config, switch: flag}).num_parameters for flag in (False, True))
    assert with_bias > without


@settings(max_examples=40, deadline=None)
@given(config=llamas())
def test_an_untied_head_adds_exactly_itself(config: dict[str, Any]) -> None:
    tied, untied = (read_model({**config, "tie_word_embeddings": flag}).num_parameters for flag in (True, False))
    assert untied - tied == config["vocab_size"] * config["hidden_size"]


@settings(max_examples=40, deadline=None)
@given(config=llamas(), more=st.integers(1, 5))
def test_each_layer_adds_the_same(config: dict[str, Any], more: int) -> None:
    def parameters(layers: int) -> int:
        return read_model({**config, "num_hidden_layers": layers}).num_parameters

    assert parameters(1 + more) - parameters(1) == more * (parameters(2) - parameters(1))


@settings(max_examples=40, deadline=None)
@given(config=llamas())
def test_layer_groups_hold_every_layer(config: dict[str, Any]) -> None:
    shape = read_model(config)
    groups = shape.layer_groups()
    assert sum(count for _, count in groups) == config["num_hidden_layers"]
    assert {layer for layer, _ in groups} == set(shape.layers)
