"""What peft adapts in a mixture of experts: the same matrices as peft's own, and the bytes of its own forward."""

from __future__ import annotations

import math
import warnings
from collections import Counter

import agreement
import pytest
from agreement import Case, compare
from agreement_models import SMALL_MODELS

from vramplan.archs import read_model
from vramplan.catalog.dirs import profile_dirs
from vramplan.catalog.stacks import load_stack
from vramplan.core.run import Lora, Tuning
from vramplan.core.stack import Stack
from vramplan.dtypes import DType
from vramplan.errors import UsageError
from vramplan.formula.adapters import adapter_shapes

QWEN2_STYLE = ("qwen3_moe", "deepseek_v2", "deepseek_v3")
EXPERTS = ("gate_proj", "up_proj", "down_proj")
AIMS = [
    *((model, targets) for model in QWEN2_STYLE for targets in (("all-linear",), EXPERTS, ("mlp.down_proj", "o_proj"))),
    *((model, ("gate", "o_proj")) for model in QWEN2_STYLE),
    *(("mixtral", targets) for targets in (("all-linear",), ("w1", "w2", "w3"), ("w2",), ("gate", "q_proj"))),
    ("gpt_oss", ("all-linear",)),
    ("gpt_oss", ("q_proj", "lm_head")),
]


def lora(*targets: str) -> Lora:
    return Lora(r=3, target_modules=targets, dtype=DType.FP32)


def stack_of(**versions: str) -> Stack:
    return load_stack(versions, profile_dirs())


def named(aim: tuple[str, tuple[str, ...]]) -> str:
    return "-".join((aim[0], *aim[1]))


@pytest.mark.parametrize("aim", AIMS, ids=named)
def test_the_matrices_are_those_of_peft(aim: tuple[str, tuple[str, ...]]) -> None:
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("bitsandbytes")
    from vramplan.program.load import add_adapters, build_config

    name, targets = aim
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_config(build_config(SMALL_MODELS[name]))
        adapted = add_adapters(model, lora(*targets), lora_dropout=0.0)
    theirs = Counter(tuple(one.shape) for path, one in adapted.named_parameters() if "lora_" in path)
    ours: Counter[tuple[int, int]] = Counter()
    stack = stack_of(transformers=transformers.__version__, peft=peft.__version__)
    for shape, count in adapter_shapes(read_model(SMALL_MODELS[name]), lora(*targets), stack):
        ours[shape] += count
    assert ours == theirs


def test_a_dense_layer_loses_the_names_that_mean_the_experts() -> None:
    """peft issue 3711: the shared expert's and the first layer's gate_proj, up_proj and down_proj get nothing."""
    shapes = adapter_shapes(read_model(SMALL_MODELS["deepseek_v3"]), lora(*EXPERTS), stack_of(peft="0.21.2"))
    config = SMALL_MODELS["deepseek_v3"]
    num_mixtures = config["num_hidden_layers"] - config["first_k_dense_replace"]
    assert sum(count for _, count in shapes) == 4 * num_mixtures


def test_half_of_a_fused_parameter_cannot_be_adapted() -> None:
    with pytest.raises(UsageError, match="gate_proj only together with up_proj"):
        adapter_shapes(read_model(SMALL_MODELS["qwen3_moe"]), lora("gate_proj"), stack_of(peft="0.21.2"))
    with pytest.raises(UsageError, match="w3 only together with w1"):
        adapter_shapes(read_model(SMALL_MODELS["mixtral"]), lora("w3", "w2"), stack_of(peft="0.21.2"))


def test_older_peft_leaves_fused_experts_alone_or_stumbles_over_all_linear() -> None:
    model = read_model(SMALL_MODELS["qwen3_moe"])
    layers = SMALL_MODELS["qwen3_moe"]["num_hidden_layers"]
    all_linear = adapter_shapes(model, lora("all-linear"), stack_of(transformers="5.0.0", peft="0.18.0"))
    assert sum(count for _, count in all_linear) == 2 * 4 * layers  # attention only
    assert adapter_shapes(model, lora(*EXPERTS), stack_of(transformers="5.0.0", peft="0.18.0")) == ()
    assert adapter_shapes(model, lora(*EXPERTS), stack_of(transformers="5.0.0", peft="0.19.0")) != ()
    with pytest.raises(UsageError, match=r"peft 0\.19\.1 cannot read all-linear"):
        adapter_shapes(model, lora("all-linear"), stack_of(transformers="5.0.0", peft="0.19.1"))


def test_experts_of_transformers_4_are_modules_of_their_own() -> None:
    config = SMALL_MODELS["mixtral"]
    hidden, inner, experts, layers = (
        config[name] for name in ("hidden_size", "intermediate_size", "num_local_experts", "num_hidden_layers")
    )
    stack = stack_of(transformers="4.57.6", peft="0.17.0")

    def count(*targets: str) -> int:
        shapes = adapter_shapes(read_model(config), lora(*targets), stack)
        return sum(math.prod(shape) * times for shape, times in shapes)

    assert count("w1", "w2", "w3") == layers * experts * 3 * 3 * (hidden + inner)
    assert count("w3") == layers * experts * 3 * (hidden + inner)
    assert count("gate") == layers * 3 * (hidden + experts)
    assert count("all-linear") == count("w1", "w2", "w3", "gate", "q_proj", "k_proj", "v_proj", "o_proj")


BYTES = [
    ("qwen3_moe", ("all-linear",), "bf16", False),
    ("qwen3_moe", ("all-linear",), "nf4-amp", True),
    ("mixtral", ("w2", "q_proj"), "amp", True),
    ("deepseek_v2", ("gate", "o_proj"), "amp", False),
    ("deepseek_v3", EXPERTS, "bf16", False),
    ("deepseek_v3", ("all-linear",), "amp", True),
]


@pytest.mark.parametrize(("model", "targets", "precision", "checkpoints"), BYTES)
def test_peaks_are_those_of_the_real_code(
    model: str, targets: tuple[str, ...], precision: str, checkpoints: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sum of parameter and adapter is made twice, to be looked at and to be used; its gradient is as large."""
    for needed in ("torch", "transformers", "peft", "bitsandbytes"):
        pytest.importorskip(needed)
    monkeypatch.setattr(agreement, "targets_of", lambda _model: targets)
    case = Case(model=model, tuning=Tuning.LORA, precision=precision, checkpoints=checkpoints)
    for one in compare(case):
        assert abs(one.error_ratio) <= 0.002, (one.phase, one.formula_bytes, one.real_bytes)
