"""quantization_config, as checkpoints carry it."""

from __future__ import annotations

from typing import Any

import pytest

from vramplan.archs import read_model
from vramplan.core.model import StoredQuantization
from vramplan.errors import UnsupportedArchitectureError


def stored(quantization_config: dict[str, Any] | None) -> StoredQuantization | None:
    config = {
        "model_type": "llama",
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": 112,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "quantization_config": quantization_config,
    }
    return read_model(config).stored_quantization


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (None, None),
        ({}, None),
        # unsloth's and other bnb-4bit checkpoints
        (
            {
                "quant_method": "bitsandbytes",
                "load_in_4bit": True,
                "load_in_8bit": False,
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_use_double_quant": True,
                "llm_int8_skip_modules": ["lm_head"],
            },
            StoredQuantization(
                method="bitsandbytes",
                bits=4,
                double_quant=True,
                four_bit_type="nf4",
                skipped_modules=("lm_head",),
            ),
        ),
        # what BitsAndBytesConfig(load_in_4bit=True) means, before quant_method was written
        ({"load_in_4bit": True}, StoredQuantization(method="bitsandbytes", bits=4, four_bit_type="fp4")),
        (
            {"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_skip_modules": None},
            StoredQuantization(method="bitsandbytes", bits=8),
        ),
        # deepseek-ai/DeepSeek-V3
        (
            {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]},
            StoredQuantization(method="fp8", bits=8, block_shape=(128, 128)),
        ),
        (
            {"quant_method": "fp8", "modules_to_not_convert": ["lm_head"]},
            StoredQuantization(method="fp8", bits=8, block_shape=(128, 128), skipped_modules=("lm_head",)),
        ),
        ({"quant_method": "fp8", "weight_block_size": None}, StoredQuantization(method="fp8", bits=8)),
        # openai/gpt-oss-20b
        (
            {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]},
            StoredQuantization(
                method="mxfp4",
                bits=4,
                block_shape=(1, 32),
                skipped_modules=("model.layers.*.self_attn", "lm_head"),
            ),
        ),
        (
            {"quant_method": "gptq", "bits": 4, "group_size": 64},
            StoredQuantization(method="gptq", bits=4, block_shape=(1, 64)),
        ),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, StoredQuantization(method="gptq", bits=8)),
        ({"quant_method": "awq"}, StoredQuantization(method="awq", bits=4, block_shape=(1, 128))),
        (
            {"quant_method": "awq", "w_bit": 4, "q_group_size": 32},
            StoredQuantization(method="awq", bits=4, block_shape=(1, 32)),
        ),
    ],
)
def test_is_read_as_transformers_reads_it(written: dict[str, Any] | None, read: StoredQuantization | None) -> None:
    assert stored(written) == read


@pytest.mark.parametrize(
    ("written", "named"),
    [
        ({"quant_method": "aqlm"}, "aqlm"),
        ({"bits": 4}, "does not name"),
        ({"quant_method": "bitsandbytes"}, "bitsandbytes"),
        ({"quant_method": "gptq"}, "bits"),
        ({"quant_method": "fp8", "expert_dtype": "fp4"}, "fp8"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, "weight_block_size"),
    ],
)
def test_a_layout_that_is_not_known_is_an_error(written: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedArchitectureError, match=named):
        stored(written)
