"""Files written for other tools: read(write(run)) is the run, and the tool itself accepts them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vramplan.errors import UsageError
from vramplan.runfiles.flat import FlatRun
from vramplan.runfiles.flat_keys import KINDS, OPTIMIZERS
from vramplan.runfiles.json_tree import toml_tree
from vramplan.runfiles.reader import read_run_file, read_tree
from vramplan.runfiles.rlt_run import PINS
from vramplan.runfiles.runfile import Tool
from vramplan.runfiles.writer import WRITERS, write_run_file
from vramplan.runfiles.yaml_tree import yaml_tree

NAMES = st.one_of(
    st.sampled_from(
        ["Qwen/Qwen2.5-7B-Instruct", "1e5", "null", "on", "0x1f", "a: b", "#x", "2020-01-01", "é", "- a", "1_0"]
    ),
    st.text("abc019_/.-:#'\" é~", min_size=1, max_size=9).filter(lambda text: text.strip() == text),
)
COUNTS = st.integers(1, 10**6)
DTYPES = st.sampled_from(["bf16", "fp16", "fp32"])
ATTENTION = st.sampled_from(["eager", "sdpa", "flash_attention_2"])
LORA = {
    "lora_r": COUNTS,
    "lora_target_modules": st.lists(
        st.sampled_from(["q_proj", "v_proj", "all-linear", "on"]), min_size=1, unique=True
    ).map(tuple),
}
PRECISION = st.sampled_from(["no", "bf16", "fp16"])


def _runs(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[FlatRun]:
    """Runs that a format can say in full: quantisation comes with adapters, as it must to train."""
    full = st.fixed_dictionaries(required | {"tuning": st.just("full")}, optional=optional)
    quantised = {
        "quantization": st.sampled_from(["none", "int8", "nf4", "fp4"]),
        "double_quant": st.booleans(),
    }
    lora = st.fixed_dictionaries(required | {"tuning": st.just("lora")}, optional=optional | LORA | quantised)
    return st.one_of(full, lora).map(_consistent).map(lambda values: FlatRun(**values))


def _consistent(values: dict[str, Any]) -> dict[str, Any]:
    if values.get("quantization") not in ("nf4", "fp4"):
        values.pop("double_quant", None)
    if values.get("rollout") != "vllm-colocate":
        values.pop("vllm_gpu_memory_utilization", None)
    return values


COMMON = {
    "dtype": DTYPES,
    "attn_implementation": ATTENTION,
    "mixed_precision": PRECISION,
    "per_device_batch_size": COUNTS,
    "gradient_checkpointing": st.booleans(),
    "optim": st.sampled_from(OPTIMIZERS),
}
ROLLOUT = {
    "generations": COUNTS,
    "max_completion_length": COUNTS,
    "beta": st.floats(0, 1),
    "rollout": st.sampled_from(["hf", "vllm-colocate", "vllm-server"]),
    "vllm_gpu_memory_utilization": st.floats(0.01, 1),
    "vllm_max_model_length": COUNTS,
}
STEPS = {"gradient_accumulation_steps": COUNTS}
TRL_RUNS = st.one_of(
    _runs({"method": st.just("sft"), "model": NAMES}, COMMON | STEPS | {"max_seq_length": COUNTS}),
    _runs(
        {"method": st.just("dpo"), "model": NAMES}, COMMON | STEPS | {"max_seq_length": COUNTS, "beta": st.floats(0, 9)}
    ),
    _runs({"method": st.just("grpo"), "model": NAMES}, COMMON | STEPS | ROLLOUT | {"vllm_sleep": st.booleans()}),
)
RLT_RUNS = st.one_of(
    _runs({"method": st.just("sft"), "model": NAMES}, COMMON | {"batch_size": COUNTS, "max_seq_length": COUNTS}),
    _runs(
        {"method": st.just("rlt"), "teacher": NAMES, "student": NAMES},
        COMMON
        | ROLLOUT
        | {
            "batch_size": COUNTS,
            "max_prompt_length": COUNTS,
            "offload": st.sampled_from([(), ("reference",), ("reference", "student")]),
        },
    ),
).map(lambda run: replace(run, stack=PINS))
PLACED = st.builds(
    lambda num_gpus, sharding, steps, precision: FlatRun(
        num_gpus=num_gpus,
        sharding=sharding,
        gradient_accumulation_steps=steps if sharding.startswith("zero") else None,
        mixed_precision=precision,
    ),
    st.integers(2, 64),
    st.sampled_from(["ddp", "zero1", "zero2", "zero3", "fsdp_full_shard"]),
    st.none() | COUNTS,
    st.none() | PRECISION,
) | st.just(FlatRun(num_gpus=1, sharding="none"))
PATH = Path("written.yaml")


@settings(deadline=None)
@given(TRL_RUNS)
def test_a_trl_file_reads_back_the_same(run: FlatRun) -> None:
    written = write_run_file(run, Tool.TRL)
    assert written.left_out == ()
    read = read_tree(yaml_tree(written.text, PATH), PATH)
    assert (read.tool, read.flat, read.unread) == (Tool.TRL, run, ())


@settings(deadline=None)
@given(run=RLT_RUNS)
def test_an_rlt_file_reads_back_the_same(run: FlatRun, tmp_path_factory: pytest.TempPathFactory) -> None:
    written = write_run_file(run, Tool.RLT)
    assert written.left_out == ()
    path = tmp_path_factory.getbasetemp() / "rlt_written.yaml"
    path.write_text(written.text, encoding="utf-8")
    read = read_run_file(path)
    assert (read.tool, read.flat, read.unread) == (Tool.RLT, run, ())


@settings(deadline=None)
@given(PLACED)
def test_an_accelerate_file_reads_back_the_same(run: FlatRun) -> None:
    written = write_run_file(run, Tool.ACCELERATE)
    assert written.left_out == ()
    read = read_tree(yaml_tree(written.text, PATH), PATH)
    assert (read.tool, read.flat, read.unread) == (Tool.ACCELERATE, run, ())


@settings(deadline=None)
@given(
    st.one_of(TRL_RUNS, RLT_RUNS, PLACED), st.integers(1, 10**15), st.text(min_size=1).filter(lambda t: t.strip() == t)
)
def test_our_own_file_says_everything(run: FlatRun, gpu_mem: int, gpu: str) -> None:
    text = write_run_file(replace(run, gpu_mem=gpu_mem, gpu=gpu), Tool.OWN)
    assert text.left_out == ()
    tree = toml_tree(text.text, Path("own.toml"))
    assert read_tree(tree, Path("own.toml"), Tool.OWN).flat == replace(run, gpu_mem=gpu_mem, gpu=gpu)


@pytest.mark.parametrize("tool", sorted(WRITERS, key=str))
def test_each_file_says_who_wrote_it_and_what_runs_it(tool: Tool) -> None:
    from vramplan import __version__

    run = FlatRun(method="rlt", teacher="t", student="s", gpu_mem=85 * 10**9, adapter_dtype="fp32", num_gpus=2)
    written = write_run_file(run, tool)
    first, *rest = written.text.splitlines()
    assert first == f"# Written by vramplan {__version__}."
    assert any(line.startswith("#") and "un" in line for line in rest[:2])
    if tool is not Tool.OWN:
        assert {"gpu_mem", "adapter_dtype"} <= set(written.left_out)
        assert f"# vramplan: this format has no word for {', '.join(written.left_out)}" in rest


def test_an_rlt_run_is_grpo_without_its_student_to_trl() -> None:
    run = FlatRun(
        method="rlt", teacher="t", student="s", context=64, batch_size=64, per_device_batch_size=2, num_gpus=4
    )
    written = write_run_file(run, Tool.TRL)
    assert written.left_out == ("student", "method", "max_prompt_length", "num_gpus")
    read = read_tree(yaml_tree(written.text, PATH), PATH).flat
    assert (read.method, read.model, read.max_completion_length) == ("grpo", "t", 64)
    assert read.gradient_accumulation_steps == 8
    assert "trl grpo --config FILE --dataset_name NAME --reward_funcs NAME --num_processes 4" in written.text


@pytest.mark.parametrize(
    ("trl", "keys"),
    [
        ("0.17.0", {"torch_dtype", "max_prompt_length", "vllm_max_model_len", "use_vllm"}),
        ("0.19.1", {"torch_dtype", "max_prompt_length", "use_vllm", "vllm_mode"}),
        (
            "0.26.2",
            {"dtype", "max_prompt_length", "use_vllm", "vllm_mode", "vllm_enable_sleep_mode", "vllm_max_model_length"},
        ),
        ("1.16.0", {"dtype", "use_vllm", "vllm_mode", "vllm_enable_sleep_mode", "vllm_max_model_length"}),
    ],
)
def test_an_older_trl_has_older_names(trl: str, keys: set[str]) -> None:
    run = FlatRun(
        method="grpo",
        dtype="bf16",
        max_prompt_length=8,
        rollout="vllm-colocate",
        vllm_sleep=True,
        vllm_max_model_length=16,
        stack={"trl": trl},
    )
    written = write_run_file(run, Tool.TRL)
    assert set(yaml_tree(written.text, PATH)) == keys
    assert "stack" in written.left_out


@pytest.mark.parametrize("trl", ["0.14.0", "0.19.1", "1.16.0"])
@pytest.mark.parametrize("method", ["sft", "dpo", "grpo"])
def test_a_file_without_any_of_its_settings_is_still_its_method_s(trl: str, method: str) -> None:
    written = write_run_file(FlatRun(method=method, model="m", stack={"trl": trl}), Tool.TRL)
    read = read_tree(yaml_tree(written.text, PATH), PATH)
    assert (read.flat, read.unread) == (FlatRun(method=method, model="m"), ())


@pytest.mark.parametrize("tool", [Tool.RLT, Tool.TRL])
def test_a_reference_of_its_own_beside_adapters_is_left_out(tool: Tool) -> None:
    run = FlatRun(method="rlt", teacher="t", reference="t", tuning="full")
    assert "reference" not in write_run_file(run, tool).left_out
    assert "reference" in write_run_file(replace(run, tuning="lora"), tool).left_out


def test_lengths_in_other_words() -> None:
    sft = FlatRun(method="sft", model="m", max_prompt_length=3, max_completion_length=4)
    assert read_tree(yaml_tree(write_run_file(sft, Tool.TRL).text, PATH), PATH).flat.max_seq_length == 7
    both = write_run_file(FlatRun(method="rlt", teacher="t", context=6), Tool.RLT).text
    assert "max_prompt_length: 6\nmax_completion_length: 6\n" in both


def test_an_rlt_file_holds_the_trainer_s_asserts() -> None:
    """RLT grpo.py 309 to 311, 375 to 382: steps divide into generations, and generations hold whole groups."""
    run = FlatRun(method="rlt", teacher="t", batch_size=64, per_device_batch_size=2, generations=16)
    tree = yaml_tree(write_run_file(run, Tool.RLT).text, PATH)
    aggregation = tree["generation_aggregation_steps"]
    assert not isinstance(aggregation, dict)
    assert aggregation.value == 8


@pytest.mark.parametrize(
    ("run", "tool", "message"),
    [
        (FlatRun(method="score", model="m"), Tool.TRL, "TRL does not train by score"),
        (FlatRun(model="m"), Tool.TRL, "TRL does not train by inference"),
        (FlatRun(method="grpo", model="m"), Tool.RLT, "RLT does not train by grpo"),
        (FlatRun(method="sft"), Tool.DEEPSPEED, "deepspeed files are read, not written"),
    ],
)
def test_what_cannot_be_written_is_refused(run: FlatRun, tool: Tool, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        write_run_file(run, tool)


@pytest.mark.parametrize("method", ["sft", "dpo", "grpo"])
def test_trl_s_own_parser_accepts_the_file(method: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("trl")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of imports that are not ours
        from transformers import HfArgumentParser
        from trl import DPOConfig, GRPOConfig, ModelConfig, ScriptArguments, SFTConfig
    config: Any = {"sft": SFTConfig, "dpo": DPOConfig, "grpo": GRPOConfig}[method]
    rollout = {
        "generations": 8,
        "max_completion_length": 64,
        "rollout": "vllm-colocate",
        "vllm_sleep": True,
        "beta": 0.04,
    }
    run = FlatRun(
        method=method,
        model="m",
        dtype="bf16",
        quantization="nf4",
        double_quant=True,
        tuning="lora",
        lora_r=8,
        lora_target_modules=("all-linear",),
        mixed_precision="no",  # transformers refuses bf16 where there is no GPU
        gradient_accumulation_steps=4,
        per_device_batch_size=2,
        gradient_checkpointing=True,
        optim="adamw_torch",
        attn_implementation="sdpa",
        **(rollout if method == "grpo" else {"max_seq_length": 64}),
    )
    path = tmp_path / "run.yaml"
    path.write_text(write_run_file(run, Tool.TRL).text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments, model, _ = HfArgumentParser((config, ModelConfig, ScriptArguments)).parse_yaml_file(str(path))
    assert (model.model_name_or_path, model.dtype, model.load_in_4bit, model.use_peft) == ("m", "bfloat16", True, True)
    assert (model.lora_r, model.lora_target_modules, model.use_bnb_nested_quant) == (8, "all-linear", True)
    assert (arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps) == (2, 4)
    assert (arguments.bf16, arguments.fp16, arguments.gradient_checkpointing) == (False, False, True)
    if method == "grpo":
        assert (arguments.num_generations, arguments.vllm_mode, arguments.beta) == (8, "colocate", 0.04)
    else:
        assert arguments.max_length == 64


def test_accelerate_s_own_loader_accepts_the_file(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from accelerate.commands.config.config_args import load_config_from_file
    for sharding, num_gpus in (("none", 1), ("ddp", 2), ("zero3", 4), ("fsdp_full_shard", 8)):
        path = tmp_path / f"{sharding}.yaml"
        run = FlatRun(sharding=sharding, num_gpus=num_gpus, mixed_precision="bf16")
        path.write_text(write_run_file(run, Tool.ACCELERATE).text)
        config = load_config_from_file(str(path))
        assert (config.num_processes, config.mixed_precision) == (num_gpus, "bf16")


@pytest.mark.parametrize(
    ("tool", "method", "left_out"),
    [
        (
            Tool.TRL,
            "grpo",
            "student architecture student_quantization reference_quantization kbit_fp32_upcast adapter_dtype "
            "max_prompt_length max_seq_length num_gpus sharding offload stack gpu gpu_mem",
        ),
        (
            Tool.RLT,
            "rlt",
            "reference architecture teacher_quantization student_quantization reference_quantization kbit_fp32_upcast "
            "adapter_dtype max_seq_length vllm_sleep num_gpus sharding offload stack gpu gpu_mem",
        ),
    ],
)
def test_what_a_format_has_no_word_for_is_named(tool: Tool, method: str, left_out: str) -> None:
    values = {key: kind.read(_SAMPLES.get(key, 8)) for key, kind in KINDS.items()}
    run = FlatRun(**(values | {"method": method, "batch_size": 8 * 8 * 8}))
    assert " ".join(write_run_file(run, tool).left_out) == left_out


def test_accelerate_has_a_word_for_the_placement_alone() -> None:
    values = {key: kind.read(_SAMPLES.get(key, 8)) for key, kind in KINDS.items()}
    said = {"mixed_precision", "num_gpus", "sharding", "run"}
    assert set(write_run_file(FlatRun(**values), Tool.ACCELERATE).left_out) == set(KINDS) - said


_SAMPLES: dict[str, Any] = {
    **dict.fromkeys(("model", "run", "teacher", "student", "reference", "architecture", "gpu"), "x"),
    **dict.fromkeys(("dtype", "adapter_dtype", "mixed_precision"), "bf16"),
    **dict.fromkeys((key for key in KINDS if key.endswith("quantization")), "nf4"),
    **dict.fromkeys(("double_quant", "kbit_fp32_upcast", "gradient_checkpointing", "vllm_sleep"), True),
    "method": "rlt",
    "tuning": "lora",
    "lora_target_modules": ["q_proj"],
    "optim": "adamw_torch",
    "attn_implementation": "sdpa",
    "rollout": "vllm-colocate",
    "vllm_gpu_memory_utilization": 0.5,
    "sharding": "ddp",
    "offload": ["student"],
    "stack": {"trl": "1.0.0"},
}
