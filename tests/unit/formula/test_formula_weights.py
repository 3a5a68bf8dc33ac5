"""Bytes of weights, counted by hand and by transformers and bitsandbytes."""

from __future__ import annotations

import csv
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vramplan.archs import read_model
from vramplan.catalog.dirs import ProfileDirs, shipped_profiles
from vramplan.catalog.stacks import load_stack
from vramplan.core.model import ModuleKind, Weight
from vramplan.core.run import LoadSpec, Quantization
from vramplan.dtypes import DType
from vramplan.formula.blocks import allocated
from vramplan.formula.weights import four_bit_states, store, store_model
from vramplan.units import MiB

DIRS = ProfileDirs(shipped=shipped_profiles())
NEW = load_stack({"transformers": "5.23.0"}, DIRS)
OLD = load_stack({"transformers": "4.57.6"}, DIRS)


def _linear(rows: int, columns: int, kind: ModuleKind = ModuleKind.LINEAR) -> Weight:
    return Weight(module="self_attn.q_proj", name="weight", shape=(rows, columns), kind=kind)


def test_each_precision_by_hand():
    weight = _linear(4096, 4096)
    numel = 4096 * 4096
    assert store(weight, LoadSpec(dtype=DType.BF16), NEW).num_bytes == 2 * numel
    assert store(weight, LoadSpec(dtype=DType.FP32), NEW).num_bytes == 4 * numel
    int8 = LoadSpec(dtype=DType.BF16, quantization=Quantization.INT8)
    assert store(weight, int8, NEW).num_bytes == numel + 4 * 4096
    nf4 = LoadSpec(dtype=DType.BF16, quantization=Quantization.NF4)
    assert store(weight, nf4, NEW).num_bytes == numel // 2 + 4 * numel // 64 + 16 * 4
    nested = LoadSpec(dtype=DType.BF16, quantization=Quantization.NF4, double_quant=True)
    assert store(weight, nested, NEW).num_bytes == (
        numel // 2 + numel // 64 + 4 * numel // (64 * 256) + 16 * 4 + 256 * 4 + 4
    )


def test_conv1d_scales_are_one_for_each_output():
    weight = Weight(module="attn.c_attn", name="weight", shape=(768, 2304), kind=ModuleKind.CONV1D)
    stored = store(weight, LoadSpec(dtype=DType.BF16, quantization=Quantization.INT8), NEW)
    assert stored.state_bytes == (4 * 2304,)


@pytest.mark.parametrize("kind", [ModuleKind.HEAD, ModuleKind.EMBEDDING, ModuleKind.NORM, ModuleKind.EXPERTS])
def test_what_bitsandbytes_leaves_alone(kind):
    weight = _linear(64, 64, kind)
    stored = store(weight, LoadSpec(dtype=DType.BF16, quantization=Quantization.NF4), NEW)
    assert stored.num_bytes == 2 * 64 * 64
    upcast = LoadSpec(dtype=DType.BF16, quantization=Quantization.NF4, kbit_fp32_upcast=True)
    assert store(weight, upcast, NEW).num_bytes == 4 * 64 * 64


def test_a_subclass_of_linear_is_converted_before_transformers_5_5():
    weight = _linear(64, 64, ModuleKind.LINEAR_SUBCLASS)
    spec = LoadSpec(dtype=DType.BF16, quantization=Quantization.NF4)
    assert store(weight, spec, OLD).quantization is Quantization.NF4
    assert store(weight, spec, NEW).quantization is Quantization.NONE


def test_converted_parameters_equal_the_published_count(shared):
    with (shared / "models" / "parameters.csv").open() as file:
        rows = list(csv.DictReader(file))
    spec = LoadSpec(dtype=DType.BF16, quantization=Quantization.NF4)
    wrong = {}
    for row in rows:
        path = shared / "models" / (row["model"].replace("/", "__") + ".json")
        model = read_model(json.loads(path.read_text()))
        stored = store_model(model, spec, NEW)
        converted = sum(one.weight.total_elements for one in stored if one.state_bytes)
        if converted != int(row["parameters_in_linear_layers_bitsandbytes_converts"]):
            wrong[row["model"]] = converted
    assert not wrong


def test_a_checkpoint_quantised_on_disk_loads_as_it_is_stored():
    base = {
        "model_type": "llama",
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 1000,
        "tie_word_embeddings": False,
    }
    fp8 = {**base, "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    model = read_model(fp8)
    spec = LoadSpec(dtype=DType.BF16, quantization=Quantization.STORED)
    stored = {one.weight.module: one for one in store_model(model, spec, NEW) if one.weight.name == "weight"}
    up = stored["mlp.up_proj"]
    assert up.data_bytes == 512 * 256
    assert up.state_bytes == (4 * (512 // 128) * (256 // 128),)
    assert stored["lm_head"].data_bytes == 2 * 1000 * 256


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000))
def test_fewer_bits_never_cost_more(rows, columns):
    weight = _linear(rows, columns)
    sizes = [
        store(weight, LoadSpec(dtype=DType.BF16, quantization=quantization), NEW).data_bytes
        for quantization in (Quantization.NONE, Quantization.INT8, Quantization.NF4)
    ]
    assert sizes == sorted(sizes, reverse=True)
    if rows * columns >= 1 << 16:
        # Below that the nested scales' own tables weigh more than they save.
        assert sum(four_bit_states(rows * columns, nested=True)) <= sum(four_bit_states(rows * columns, nested=False))


@given(st.integers(1, 200 * MiB))
def test_a_block_holds_its_tensor_and_wastes_at_most_a_mebibyte(num_bytes):
    assert num_bytes <= allocated(num_bytes) <= num_bytes + MiB + 512
