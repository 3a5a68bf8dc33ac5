"""Small models of every architecture equal transformers' own, weight by weight, in all that their configs can vary."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from vramplan.archs import known_model_types, read_model
from vramplan.core.model import ModelShape, ModuleKind

_LLAMA = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
_GPT = {"vocab_size": 96, "n_embd": 64, "n_layer": 3, "n_head": 4}
_OPT = {"vocab_size": 96, "hidden_size": 64, "ffn_dim": 112, "num_hidden_layers": 3, "num_attention_heads": 4}
_FALCON = {"vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
_EXPERTS = {"num_experts": 6, "moe_intermediate_size": 24}
_DEEPSEEK = {**_LLAMA, "moe_intermediate_size": 24, "n_routed_experts": 8, "num_key_value_heads": 4}
_GEMMA3 = {"hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 7}

# The first of each architecture has only the fields that a reader insists on: all else is a default to get right.
TINY: dict[str, list[dict[str, Any]]] = {
    "llama": [
        _LLAMA,
        {**_LLAMA, "num_key_value_heads": 2, "head_dim": 24, "tie_word_embeddings": True},
        {**_LLAMA, "attention_bias": True, "mlp_bias": True, "num_key_value_heads": None, "head_dim": None},
        {**_LLAMA, "attention_dropout": 0.1, "max_position_embeddings": 77, "hidden_act": "gelu"},
    ],
    "mistral": [
        {**_LLAMA, "num_attention_heads": 8},
        {**_LLAMA, "num_key_value_heads": 2, "head_dim": 24, "sliding_window": None},
        {**_LLAMA, "num_key_value_heads": 1, "sliding_window": 9, "tie_word_embeddings": True},
    ],
    "qwen2": [
        {**_LLAMA, "num_attention_heads": 32},
        {**_LLAMA, "num_key_value_heads": 2, "tie_word_embeddings": True, "head_dim": 24},
        {**_LLAMA, "num_key_value_heads": 2, "use_sliding_window": True, "max_window_layers": 1},
        {
            **_LLAMA,
            "num_key_value_heads": None,
            "use_sliding_window": True,
            "sliding_window": 8,
            "max_window_layers": 0,
        },
        {**_LLAMA, "num_key_value_heads": 2, "use_sliding_window": True, "num_hidden_layers": 30},
        {
            **_LLAMA,
            "num_key_value_heads": 2,
            "use_sliding_window": True,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        {
            **_LLAMA,
            "num_key_value_heads": 2,
            "use_sliding_window": False,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ],
    "qwen3": [
        {**_LLAMA, "num_attention_heads": 32},
        {**_LLAMA, "num_key_value_heads": 2, "head_dim": 24, "attention_bias": True, "tie_word_embeddings": True},
        {**_LLAMA, "num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
    ],
    "qwen3_moe": [
        {**_LLAMA, **_EXPERTS},
        {**_LLAMA, **_EXPERTS, "num_key_value_heads": 2, "head_dim": 24, "attention_bias": True},
        {**_LLAMA, **_EXPERTS, "decoder_sparse_step": 2, "tie_word_embeddings": True},
        {**_LLAMA, **_EXPERTS, "mlp_only_layers": [0, 2], "use_sliding_window": True, "sliding_window": 8},
    ],
    "mixtral": [
        {**_LLAMA, "num_attention_heads": 8, "num_local_experts": 8},
        {**_LLAMA, "num_key_value_heads": 2, "num_local_experts": 3, "head_dim": 24, "sliding_window": 9},
        {**_LLAMA, "num_key_value_heads": 4, "num_local_experts": 3, "tie_word_embeddings": True},
    ],
    "granite": [
        _LLAMA,
        {**_LLAMA, "num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ],
    "gemma": [
        {**_LLAMA, "num_attention_heads": 16},
        {**_LLAMA, "num_key_value_heads": 1, "head_dim": 24, "tie_word_embeddings": False, "attention_bias": True},
        {**_LLAMA, "num_attention_heads": 16, "hidden_act": "gelu"},
    ],
    "gemma2": [
        {**_LLAMA, "num_hidden_layers": 4},
        {**_LLAMA, "num_key_value_heads": 2, "head_dim": 24, "tie_word_embeddings": False, "attention_bias": True},
        {**_LLAMA, "sliding_window": 9, "attn_logit_softcapping": None, "final_logit_softcapping": None},
        {**_LLAMA, "layer_types": ["full_attention", "full_attention", "sliding_attention"]},
    ],
    "gemma3_text": [
        _GEMMA3,
        {**_GEMMA3, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 24, "vocab_size": 96},
        {**_GEMMA3, "sliding_window": 9, "sliding_window_pattern": 3, "tie_word_embeddings": False},
        {**_GEMMA3, "use_bidirectional_attention": True, "attention_bias": True, "final_logit_softcapping": 30.0},
    ],
    "phi3": [
        {**_LLAMA, "pad_token_id": 0},
        {**_LLAMA, "pad_token_id": 0, "num_key_value_heads": 2, "tie_word_embeddings": True, "sliding_window": 9},
        {**_LLAMA, "pad_token_id": 0, "partial_rotary_factor": 0.75, "resid_pdrop": 0.1},
        {**_LLAMA, "pad_token_id": 0, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
    ],
    "phi": [
        _LLAMA,
        {**_LLAMA, "num_key_value_heads": 2, "partial_rotary_factor": 0.25, "resid_pdrop": 0.1},
        {**_LLAMA, "tie_word_embeddings": True},
    ],
    "smollm3": [
        {**_LLAMA, "num_hidden_layers": 9, "pad_token_id": 0},
        {**_LLAMA, "num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True, "pad_token_id": 0},
        {
            **_LLAMA,
            "num_hidden_layers": 9,
            "use_sliding_window": True,
            "sliding_window": 9,
            "no_rope_layer_interval": 3,
            "tie_word_embeddings": False,
            "pad_token_id": 0,
        },
        {**_LLAMA, "no_rope_layers": [1, 0, 1], "use_sliding_window": True, "sliding_window": 9, "pad_token_id": 0},
    ],
    "starcoder2": [
        _LLAMA,
        {**_LLAMA, "num_key_value_heads": 4, "use_bias": False, "tie_word_embeddings": False, "sliding_window": 9},
        {**_LLAMA, "residual_dropout": 0.1, "embedding_dropout": 0.1, "attention_dropout": 0.1},
    ],
    "opt": [
        _OPT,
        {**_OPT, "word_embed_proj_dim": 32, "do_layer_norm_before": False},
        {**_OPT, "enable_bias": False, "tie_word_embeddings": False},
        {**_OPT, "_remove_final_layer_norm": True, "max_position_embeddings": 20, "word_embed_proj_dim": None},
        {**_OPT, "layer_norm_elementwise_affine": False, "dropout": 0.0},
    ],
    "gpt2": [
        _GPT,
        {**_GPT, "n_inner": 100, "n_positions": 20, "tie_word_embeddings": False, "resid_pdrop": 0.0},
        {"vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "n_inner": None},
    ],
    "gpt_bigcode": [
        _GPT,
        {**_GPT, "n_inner": 100, "n_positions": 20, "multi_query": False, "tie_word_embeddings": False},
    ],
    "gpt_neox": [
        _LLAMA,
        {**_LLAMA, "rotary_pct": 1.0, "attention_bias": False, "use_parallel_residual": False},
        {**_LLAMA, "tie_word_embeddings": True, "hidden_dropout": 0.1, "max_position_embeddings": 20},
    ],
    "falcon": [
        _FALCON,
        {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2, "bias": True},
        {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
        {**_FALCON, "parallel_attn": False, "multi_query": False, "alibi": True, "bias": True},
        {**_FALCON, "multi_query": False, "ffn_hidden_size": 100, "tie_word_embeddings": False, "num_kv_heads": None},
    ],
    "deepseek_v3": [
        {**_DEEPSEEK, "num_hidden_layers": 5},
        {**_DEEPSEEK, "q_lora_rank": None, "attention_bias": True, "first_k_dense_replace": 0, "n_shared_experts": 2},
        {
            **_DEEPSEEK,
            "q_lora_rank": 20,
            "kv_lora_rank": 12,
            "qk_nope_head_dim": 10,
            "qk_rope_head_dim": 6,
            "v_head_dim": 14,
            "first_k_dense_replace": 7,
            "tie_word_embeddings": True,
        },
    ],
    "deepseek_v2": [
        {**_DEEPSEEK, "num_experts_per_tok": 2},
        {**_DEEPSEEK, "num_experts_per_tok": 2, "q_lora_rank": None, "mlp_bias": True, "first_k_dense_replace": 1},
    ],
    "gpt_oss": [
        {**_LLAMA, "num_attention_heads": 8, "num_local_experts": 6},
        {**_LLAMA, "num_key_value_heads": 2, "num_local_experts": 6, "attention_bias": False, "head_dim": 24},
        {
            **_LLAMA,
            "num_key_value_heads": 2,
            "num_local_experts": 6,
            "sliding_window": 9,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
            "tie_word_embeddings": True,
        },
    ],
}
CASES = [
    pytest.param({"model_type": model_type, **fields}, id=f"{model_type}-{index}")
    for model_type, variants in TINY.items()
    for index, fields in enumerate(variants)
]


def test_every_architecture_has_a_case() -> None:
    # gemma3 is gemma3_text inside a wrapper: test_archs_read_model.py
    assert set(TINY) == set(known_model_types()) - {"gemma3"}


@pytest.mark.parametrize("config", CASES)
def test_equals_transformers(config: dict[str, Any], oracle: Any) -> None:
    shape, meta = read_model(config), oracle.build(config)
    assert oracle.weights(shape) == meta.weights
    assert shape.num_parameters == meta.num_parameters
    assert [layer.attention.sliding_window for layer in shape.layers] == meta.windows
    assert shape.buffer_bytes == meta.buffer_bytes
    assert shape.max_position_embeddings == meta.config.max_position_embeddings
    assert shape.tie_word_embeddings == meta.config.tie_word_embeddings
    if not any(layer.attention.alibi for layer in shape.layers):
        assert max(layer.attention.rotary_dim for layer in shape.layers) == meta.rotary_dim
    assert _activations(shape) == {_activation(meta.config)}


@pytest.mark.parametrize("config", CASES)
def test_bitsandbytes_converts_what_is_linear(config: dict[str, Any], oracle: Any) -> None:
    shape = read_model(config)
    linear = Counter[str]()
    for weight in shape.weights(fused_experts=True):
        if weight.kind in (ModuleKind.LINEAR, ModuleKind.CONV1D) and weight.name == "weight":
            linear[weight.module] += weight.count
    assert oracle.build(config).converted == linear


def _activations(shape: ModelShape) -> set[str]:
    return {layer.mlp.activation for layer in shape.layers}


def _activation(config: Any) -> str:
    names = ("hidden_act", "hidden_activation", "activation_function", "activation")
    return str(next(getattr(config, name) for name in names if hasattr(config, name)))
