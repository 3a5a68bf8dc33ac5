"""RLT's configuration: composed as Hydra does, and read as what its code passes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vramplan.errors import UsageError
from vramplan.runfiles.reader import read_run_file
from vramplan.runfiles.runfile import Tool

PINS = {"transformers": "4.51.1", "trl": "0.14.0", "accelerate": "1.4.0"}
UPSTREAM = {
    "teacher": "Qwen/Qwen2.5-7B-Instruct",
    "student": "bespokelabs/Bespoke-Stratos-7B",
    "method": "rlt",
    "tuning": "full",
    "mixed_precision": "bf16",
    "gradient_checkpointing": True,
    "batch_size": 1024,
    "per_device_batch_size": 1,
    "generations": 64,
    "max_prompt_length": 16384,
    "max_completion_length": 16384,
    "rollout": "vllm-server",
    "offload": ["reference", "student"],
    "beta": 0.04,
    "stack": PINS,
}
Tree = Callable[..., Path]
File = Callable[[str, str], Path]


def test_upstream_is_composed_from_its_tree(rlt_tree: Tree) -> None:
    run = read_run_file(rlt_tree() / "run_cfg" / "teacher_rlt.yaml")
    assert run.tool is Tool.RLT
    assert run.flat.to_dict() == UPSTREAM
    assert run.unread == ()


def test_model_args_are_written_but_do_not_run(rlt_tree: Tree) -> None:
    run = read_run_file(rlt_tree() / "run_cfg" / "mono_85gb.yaml")
    assert run.written["model_args.load_in_8bit"].value is True
    assert run.written["model_args.torch_dtype"].value == "bfloat16"
    assert (run.flat.quantization, run.flat.dtype, run.flat.attn_implementation) == (None, None, None)
    assert run.flat.tuning == "full"
    assert [(one.key, one.value) for one in run.unread] == [("model_args.device_map", "auto")]
    assert (run.flat.rollout, run.flat.vllm_gpu_memory_utilization) == ("vllm-colocate", 0.55)
    assert (run.flat.vllm_max_model_length, run.flat.offload) == (6144, ())


def test_every_setting_has_the_file_and_line_that_won(rlt_tree: Tree) -> None:
    cfgs = rlt_tree()
    path = cfgs / "run_cfg" / "teacher_rlt.yaml"
    written = read_run_file(path).written
    assert written["train_batch_size"].place.file == path
    lines = path.read_text().splitlines()
    assert lines[(written["train_batch_size"].place.line or 0) - 1] == "train_batch_size: 1024"
    assert written["gradient_checkpointing"].place.file.name == "base.yaml"
    assert written["trainer_args.num_generations"].value == 64


def test_interpolations_nest_and_keep_what_is_not_known(rlt_tree: Tree) -> None:
    written = read_run_file(rlt_tree() / "run_cfg" / "teacher_rlt.yaml").written
    assert written["log_name"].value == "gr64_16384ctx"
    assert written["output_dir"].value == "results/${now:%Y}"
    assert written["gradient_accumulation_steps"].value is None
    assert written["learning_rate"].value == 5e-7
    assert "hydra.run.dir" not in written


def test_the_primary_config_and_its_folder_are_the_same_run(rlt_tree: Tree) -> None:
    cfgs = rlt_tree(run_cfg__default="train_batch_size: 16\n")
    run = read_run_file(cfgs / "train.yaml")
    assert run.flat == read_run_file(cfgs).flat == read_run_file(cfgs.parent).flat
    assert (run.flat.method, run.flat.model, run.flat.teacher) == ("sft", "Qwen/Qwen2.5-7B-Instruct", None)
    assert (run.flat.max_seq_length, run.flat.batch_size) == (4096, 16)


def test_a_run_file_alone_says_only_what_it_says(file: File) -> None:
    text = "defaults:\n  - override /trainer_cfg@_global_: teacher_grpo\n  - _self_\ntrain_batch_size: 64\n"
    run = read_run_file(file("alone.yaml", text + "num_generations: 16\nstudent_model: s\nuse_vllm: true\n"))
    assert run.flat.to_dict() == {
        "method": "rlt",
        "student": "s",
        "batch_size": 64,
        "generations": 16,
        "rollout": "vllm-colocate",
        "stack": PINS,
    }
    assert run.unread == ()


def test_what_reaches_the_model_counts(rlt_tree: Tree) -> None:
    base = "defaults:\n  - override /trainer_cfg@_global_: teacher_grpo\n  - _self_\n"
    kwargs = "model_init_kwargs:\n  torch_dtype: bfloat16\n  load_in_4bit: true\n  bnb_4bit_quant_type: nf4\n"
    lora = "use_peft: true\nmodel_args:\n  lora_r: 8\n  lora_target_modules: [q_proj, v_proj]\n"
    flat = read_run_file(rlt_tree(run_cfg__q=base + kwargs + lora) / "run_cfg" / "q.yaml").flat
    assert (flat.dtype, flat.quantization, flat.tuning, flat.lora_r) == ("bf16", "nf4", "lora", 8)
    assert flat.lora_target_modules == ("q_proj", "v_proj")


def test_a_lora_config_of_its_own_reaches_the_trainer(rlt_tree: Tree) -> None:
    text = "defaults:\n  - override /trainer_cfg@_global_: teacher_grpo\n  - _self_\n"
    text += "peft_config:\n  _target_: peft.LoraConfig\n  r: 16\n  target_modules: [q_proj]\n"
    flat = read_run_file(rlt_tree(run_cfg__p=text) / "run_cfg" / "p.yaml").flat
    assert (flat.tuning, flat.lora_r, flat.lora_target_modules) == ("lora", 16, ("q_proj",))


def test_given_steps_decide_and_the_batch_is_not_read(rlt_tree: Tree) -> None:
    text = "defaults:\n  - override /trainer_cfg@_global_: teacher_grpo\n  - _self_\n"
    text += "train_batch_size: 96\ngradient_accumulation_steps: 5\n"
    flat = read_run_file(rlt_tree(run_cfg__s=text) / "run_cfg" / "s.yaml").flat
    assert (flat.batch_size, flat.gradient_accumulation_steps) == (None, 5)


def test_a_student_that_stays_is_not_offloaded(rlt_tree: Tree) -> None:
    text = "defaults:\n  - override /trainer_cfg@_global_: teacher_grpo\n  - _self_\n"
    text += "student_model: s\noffload_untrained_models: true\ndisable_student_offloading: true\n"
    assert read_run_file(rlt_tree(run_cfg__d=text) / "run_cfg" / "d.yaml").flat.offload == ("reference",)


def test_defaults_that_name_nothing_are_unread(rlt_tree: Tree) -> None:
    text = "defaults:\n  - override /trainer_cfg@_global_: nowhere\n  - override /other_cfg: x\n  - _self_\n"
    run = read_run_file(rlt_tree(run_cfg__u=text) / "run_cfg" / "u.yaml")
    found = {(one.key, one.value) for one in run.unread}
    assert found == {("defaults trainer_cfg@_global_", "nowhere"), ("override other_cfg", "x")}
    assert {(one.place.file.name, one.place.line) for one in run.unread} == {("u.yaml", 1)}


def test_packages_put_settings_below_their_group(file: File, tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "own.yaml").write_text("max_completion_length: 7\n")
    (tmp_path / "db" / "top.yaml").write_text("# @package _global_\nnum_generations: 4\n")
    (tmp_path / "db" / "named.yaml").write_text("bf16: true\n")
    path = file(
        "main.yaml", "defaults:\n  - db: own\n  - db@trainer_args: named\n  - /db@_global_: top\n  - optional x: y\n"
    )
    written = read_run_file(path).written
    assert written["db.max_completion_length"].value == 7
    assert written["trainer_args.bf16"].value is True
    assert written["num_generations"].value == 4


def test_a_setting_that_refers_to_itself_is_refused(file: File) -> None:
    path = file("loop.yaml", "train_batch_size: ${a.b}\nnum_generations: 2\na:\n  b: ${train_batch_size}\n")
    with pytest.raises(UsageError) as error:
        read_run_file(path)
    assert error.value.message == f"{path}:1: train_batch_size refers to itself"


def test_configs_that_include_each_other_are_refused(rlt_tree: Tree) -> None:
    cfgs = rlt_tree(trainer_cfg__a="defaults: [b]\n", trainer_cfg__b="defaults: [a]\n")
    (cfgs / "run_cfg" / "c.yaml").write_text("defaults:\n  - override /trainer_cfg@_global_: a\n")
    with pytest.raises(UsageError, match="configs include each other"):
        read_run_file(cfgs / "run_cfg" / "c.yaml")


def test_the_environment_is_read(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VRAMPLAN_TEST_ROWS", "3")
    monkeypatch.delenv("VRAMPLAN_TEST_NONE", raising=False)
    text = "train_batch_size: ${oc.env:VRAMPLAN_TEST_ROWS}\nnum_generations: ${oc.env:VRAMPLAN_TEST_NONE,8}\n"
    flat = read_run_file(file("env.yaml", text + "beta: ${oc.env:VRAMPLAN_TEST_NONE}\n")).flat
    assert (flat.batch_size, flat.generations, flat.beta) == (3, 8, None)


def test_relative_interpolations_start_beside_themselves(file: File) -> None:
    text = "num_generations: ${a.c}\na:\n  b: 4\n  c: ${.b}\ntrain_batch_size: ${.num_generations}\n"
    flat = read_run_file(file("rel.yaml", text)).flat
    assert (flat.generations, flat.batch_size) == (4, 4)
