"""Fields that are missing, mistyped or contradictory are named, never guessed."""

from __future__ import annotations

from typing import Any

import pytest

from vramplan.archs import read_model
from vramplan.errors import UnsupportedArchitectureError

_STREAM = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
_GATED = (*_STREAM, "intermediate_size")
_GPT = ("vocab_size", "n_embd", "n_layer", "n_head")
_LATENT = (*_GATED, "moe_intermediate_size", "n_routed_experts")

# What each reader insists on: sizes that transformers' defaults never make right.
REQUIRED: dict[str, tuple[str, ...]] = {
    "deepseek_v2": (*_LATENT, "num_experts_per_tok"),
    "deepseek_v3": _LATENT,
    "falcon": _STREAM,
    "gemma": _GATED,
    "gemma2": _GATED,
    "gemma3_text": ("hidden_size", "intermediate_size", "num_hidden_layers"),
    "gpt2": _GPT,
    "gpt_bigcode": _GPT,
    "gpt_neox": _GATED,
    "gpt_oss": (*_GATED, "num_local_experts"),
    "granite": _GATED,
    "llama": _GATED,
    "mistral": _GATED,
    "mixtral": (*_GATED, "num_local_experts"),
    "opt": (*_STREAM, "ffn_dim"),
    "phi": _GATED,
    "phi3": _GATED,
    "qwen2": _GATED,
    "qwen3": _GATED,
    "qwen3_moe": (*_STREAM, "num_experts", "moe_intermediate_size"),
    "smollm3": _GATED,
    "starcoder2": _GATED,
}
_SIZES = {"num_attention_heads": 128, "n_head": 16, "hidden_size": 1024, "n_embd": 64, "num_hidden_layers": 2}


def minimal(model_type: str) -> dict[str, Any]:
    """The least config that a reader takes."""
    return {"model_type": model_type, **{name: _SIZES.get(name, 32) for name in REQUIRED[model_type]}}


MISSING = [(model_type, field) for model_type, fields in REQUIRED.items() for field in fields]


@pytest.mark.parametrize("model_type", REQUIRED)
def test_the_least_config_is_read(model_type: str) -> None:
    assert read_model(minimal(model_type)).model_type == model_type


@pytest.mark.parametrize(("model_type", "field"), MISSING)
@pytest.mark.parametrize("null", [False, True])
def test_a_missing_field_is_named_with_the_model_type(model_type: str, field: str, null: bool) -> None:
    config = minimal(model_type)
    if null:
        config[field] = None
    else:
        del config[field]
    with pytest.raises(UnsupportedArchitectureError) as caught:
        read_model(config)
    assert f"`{field}`" in caught.value.message
    assert model_type in caught.value.message
    assert caught.value.hint is not None


@pytest.mark.parametrize("value", [True, "64", 64.0, 0, -1, [64], {}])
@pytest.mark.parametrize("field", ["hidden_size", "num_key_value_heads", "head_dim", "max_position_embeddings"])
def test_what_is_no_size_is_refused(field: str, value: object) -> None:
    with pytest.raises(UnsupportedArchitectureError, match=field):
        read_model({**minimal("llama"), field: value})


@pytest.mark.parametrize(
    ("model_type", "field", "value"),
    [
        ("llama", "attention_bias", "no"),
        ("llama", "tie_word_embeddings", 1),
        ("llama", "hidden_act", 5),
        ("llama", "attention_dropout", "0.1"),
        ("llama", "attention_dropout", True),
        ("llama", "num_hidden_layers", 10**12),
        ("llama", "torch_dtype", "bfloat17"),
        ("llama", "dtype", 16),
        ("gemma2", "layer_types", ["full_attention"]),
        ("gemma2", "layer_types", ["full_attention", "linear_attention"]),
        ("gemma2", "layer_types", "full_attention"),
        ("gemma2", "attn_logit_softcapping", "50"),
        ("qwen3_moe", "mlp_only_layers", ["0"]),
        ("qwen2", "max_window_layers", -1),
        ("phi3", "partial_rotary_factor", 1.5),
        ("gpt_neox", "rotary_pct", 0.0),
        ("smollm3", "no_rope_layers", [1]),
        ("phi", "qk_layernorm", True),
        ("gpt2", "add_cross_attention", True),
        ("llama", "quantization_config", "fp8"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(model_type: str, field: str, value: object) -> None:
    with pytest.raises(UnsupportedArchitectureError, match=field):
        read_model({**minimal(model_type), field: value})


@pytest.mark.parametrize(
    "fields",
    [
        {"parallel_attn": False, "new_decoder_architecture": True},
        {"parallel_attn": True, "new_decoder_architecture": False, "num_ln_in_parallel_attn": 2},
    ],
)
def test_norms_that_transformers_builds_but_cannot_run_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(UnsupportedArchitectureError, match="contradict"):
        read_model({**minimal("falcon"), **fields})


def test_dropout_is_on_where_its_probability_is_above_zero() -> None:
    gpt2 = read_model(minimal("gpt2"))  # 0.1 by default, everywhere
    assert (gpt2.layers[0].attention.dropout, gpt2.layers[0].dropout, gpt2.embedding_dropout) == (True, True, True)
    none = read_model({**minimal("gpt2"), "attn_pdrop": 0.0, "resid_pdrop": 0, "embd_pdrop": 0.0})
    assert (none.layers[0].attention.dropout, none.layers[0].dropout, none.embedding_dropout) == (False, False, False)
    opt = read_model(minimal("opt"))  # dropout 0.1, attention_dropout 0.0
    assert (opt.layers[0].attention.dropout, opt.layers[0].dropout, opt.embedding_dropout) == (False, True, False)
    llama = read_model(minimal("llama"))
    assert (llama.layers[0].attention.dropout, llama.layers[0].dropout) == (False, False)


@pytest.mark.parametrize(
    ("fields", "stored"),
    [
        ({}, None),
        ({"torch_dtype": None}, None),
        ({"torch_dtype": "auto"}, None),
        ({"torch_dtype": "bfloat16"}, "bf16"),
        ({"dtype": "float16"}, "fp16"),
        ({"dtype": "float32", "torch_dtype": "bfloat16"}, "fp32"),
        ({"torch_dtype": "torch.bfloat16"}, "bf16"),
    ],
)
def test_the_stored_dtype_is_the_one_that_the_config_names(fields: dict[str, object], stored: str | None) -> None:
    assert read_model({**minimal("llama"), **fields}).stored_dtype == stored
