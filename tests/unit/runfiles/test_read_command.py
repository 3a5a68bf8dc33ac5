"""Training commands, given as a text, as words, or in a script."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vramplan.errors import UsageError
from vramplan.runfiles.command import read_command_line
from vramplan.runfiles.reader import read_run_file
from vramplan.runfiles.runfile import Tool

Tree = Callable[..., Path]
File = Callable[[str, str], Path]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("trl sft --model_name_or_path m --max_length 100", {"model": "m", "method": "sft", "max_seq_length": 100}),
        ("trl dpo --model-name-or-path=m --beta=0.2", {"model": "m", "method": "dpo", "beta": 0.2}),
        ("trl grpo --num_generations 4 --temperature -0.5", {"method": "grpo", "generations": 4}),
        ("trl grpo --bf16 False --fp16", {"method": "grpo", "mixed_precision": "fp16"}),
        ("trl sft --no_gradient_checkpointing", {"method": "sft", "gradient_checkpointing": False}),
        (
            "trl sft --use_peft --lora_target_modules q_proj v_proj --load_in_4bit",
            {"method": "sft", "tuning": "lora", "lora_target_modules": ["q_proj", "v_proj"], "quantization": "nf4"},
        ),
        ("""trl sft --model_init_kwargs '{"dtype": "bfloat16"}'""", {"method": "sft", "dtype": "bf16"}),
        ("trl grpo --accelerate_config zero2", {"method": "grpo", "num_gpus": 8, "sharding": "zero2"}),
        (
            "trl grpo --accelerate_config zero2 --num_processes 3",
            {"method": "grpo", "num_gpus": 3, "sharding": "zero2"},
        ),
        (
            "accelerate launch --num_processes 8 --multi_gpu examples/dpo_vlm.py --model_name_or_path m",
            {"model": "m", "method": "dpo", "num_gpus": 8, "sharding": "ddp"},
        ),
        (
            "accelerate launch --use_deepspeed --zero_stage 3 --mixed_precision bf16 t.py --max_length 8",
            {"method": "sft", "mixed_precision": "bf16", "max_seq_length": 8, "sharding": "zero3"},
        ),
        ("accelerate launch -m pkg.train --num_generations 2", {"method": "grpo", "generations": 2}),
        ("torchrun --nproc_per_node=4 sft.py --max_length 8", {"method": "sft", "max_seq_length": 8, "num_gpus": 4}),
        ("torchrun --nproc-per-node gpu sft.py --max_length 8", {"method": "sft", "max_seq_length": 8}),
        ("deepspeed --num_gpus 2 sft.py --max_length 8", {"method": "sft", "max_seq_length": 8, "num_gpus": 2}),
        ("A=1 nohup python3.11 -u my/sft.py --max_length 8 &", {"method": "sft", "max_seq_length": 8}),
        ("cd x && uv run trl sft --max_length 8 | tee log", {"method": "sft", "max_seq_length": 8}),
        ("trl grpo --model_name_or_path $MODEL --beta ${BETA}", {"method": "grpo"}),
    ],
)
def test_what_a_command_runs(command: str, expected: dict[str, Any], tmp_path: Path) -> None:
    run = read_command_line(command, folder=tmp_path)
    assert (run.tool, run.flat.to_dict()) == (Tool.TRL, expected)
    assert {written.place.line for written in run.written.values()} <= {None}


def test_words_are_taken_as_they_are() -> None:
    run = read_command_line(["trl", "sft", "--model_name_or_path", "a model"])
    assert run.flat.model == "a model"


@pytest.mark.parametrize("command", ["", "ls -l", "trl env", "accelerate config", "echo trl"])
def test_a_command_without_training_is_refused(command: str) -> None:
    with pytest.raises(UsageError, match="the command starts no training"):
        read_command_line(command)


def test_a_config_file_lies_under_the_flags(file: File, tmp_path: Path) -> None:
    file("c.yaml", "model_name_or_path: m\nmax_length: 8\nmodl: 1\n")
    run = read_command_line("trl sft --config c.yaml --max_length 16", folder=tmp_path)
    assert (run.flat.model, run.flat.max_seq_length) == ("m", 16)
    assert run.written["model_name_or_path"].place.line == 1
    assert [one.key for one in run.unread] == ["modl"]


def test_an_accelerate_config_lies_under_its_flags(file: File, tmp_path: Path) -> None:
    file("acc.yaml", "distributed_type: DEEPSPEED\nnum_processes: 8\ndeepspeed_config: {zero_stage: 2}\n")
    run = read_command_line("accelerate launch --config_file acc.yaml --num_processes 2 grpo.py", folder=tmp_path)
    assert run.flat.to_dict() == {"method": "grpo", "num_gpus": 2, "sharding": "zero2"}


def test_hydra_overrides_compose_the_tree(rlt_tree: Tree, tmp_path: Path) -> None:
    rlt_tree()
    command = "accelerate launch --num_processes 4 train.py run_cfg@_global_=teacher_rlt train_batch_size=64"
    run = read_command_line(f"{command} ++beta=0 '+new=[1, 2]' ~tags", folder=tmp_path)
    assert (run.tool, run.unread) == (Tool.RLT, ())
    flat = run.flat
    assert (flat.batch_size, flat.beta, flat.num_gpus, flat.generations) == (64, 0.0, 4, 64)
    assert run.written["new"].value == [1, 2]


def test_hydra_without_its_tree_says_what_the_command_says(tmp_path: Path) -> None:
    run = read_command_line("python train.py run_cfg@_global_=x train_batch_size=64 student_model=s", folder=tmp_path)
    assert (run.flat.batch_size, run.flat.student) == (64, "s")


def test_a_config_name_that_cannot_compose_says_which_overrides_match_nothing(rlt_tree: Tree, tmp_path: Path) -> None:
    rlt_tree()
    run = read_command_line("python train.py --config-path=cfgs/run_cfg --config-name mono_85gb", folder=tmp_path)
    assert [one.key for one in run.unread if one.key.startswith("override")] == [
        "override model_cfg@_global_",
        "override trainer_cfg@_global_",
    ]
    assert run.flat.batch_size == 96


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("./launch_with_server.sh 4 4 cfgs/run_cfg/teacher_rlt.yaml beta=0.1", (4, "zero3", 0.1)),
        ("./launch.sh 8 cfgs/run_cfg/teacher_rlt.yaml zero1", (8, "zero1", 0.04)),
        ("bash launch.sh $N cfgs/run_cfg/teacher_rlt.yaml offload", (None, "zero3", 0.04)),
    ],
)
def test_rlt_launchers(rlt_tree: Tree, tmp_path: Path, command: str, expected: tuple[object, ...]) -> None:
    rlt_tree()
    flat = read_command_line(command, folder=tmp_path).flat
    assert (flat.num_gpus, flat.sharding, flat.beta) == expected
    assert (flat.method, flat.dtype, flat.batch_size) == ("rlt", None, 1024)


SCRIPT = """\
#!/bin/bash
# trl sft --max_length 1
set -e
MODEL="Qwen/Qwen2.5-0.5B"
export ROWS=4
echo "no 'training' here"; nvidia-smi
CUDA_VISIBLE_DEVICES=0,1 trl grpo \\
    --model_name_or_path $MODEL \\
    --per_device_train_batch_size ${ROWS} \\
    --num_generations ${G:-8} \\
    --max_completion_length ${UNKNOWN} \\
    --reward_funcs 'a
b' --bf16 true > log.txt 2>&1
trl sft --max_length 2
"""


def test_a_script_is_its_first_training_command(file: File) -> None:
    path = file("train.sh", SCRIPT)
    run = read_run_file(path)
    assert run.flat.to_dict() == {
        "model": "Qwen/Qwen2.5-0.5B",
        "method": "grpo",
        "mixed_precision": "bf16",
        "per_device_batch_size": 4,
        "generations": 8,
    }
    lines = {key: written.place.line for key, written in run.written.items()}
    assert (lines["model_name_or_path"], lines["per_device_train_batch_size"], lines["num_generations"]) == (8, 9, 10)
    assert (lines["bf16"], run.written["bf16"].place.file) == (13, path)
    assert run.written["reward_funcs"].value == "a\nb"


def test_a_command_in_a_text_file(file: File) -> None:
    assert read_run_file(file("cmd.txt", "trl sft --max_length 9\n")).flat.max_seq_length == 9


@pytest.mark.parametrize("text", ["echo hi\n", "trl env\n", "accelerate test\n", "python\n", "trl\n"])
def test_a_script_without_training_is_refused(file: File, text: str) -> None:
    with pytest.raises(UsageError, match="has no training command"):
        read_run_file(file("x.sh", text))


def test_other_methods_and_open_quotes_are_refused(file: File) -> None:
    with pytest.raises(UsageError, match="kto trains with a method that is not modelled"):
        read_command_line("trl kto --model_name_or_path m")
    path = file("x.sh", "\ntrl sft --model 'open\n")
    with pytest.raises(UsageError, match="a quote is never closed") as error:
        read_run_file(path)
    assert error.value.message.startswith(f"{path}:2: ")


def test_a_wrong_value_names_its_line(file: File) -> None:
    path = file("x.sh", "trl grpo \\\n  --beta 0 \\\n  --num_generations lots\n")
    with pytest.raises(UsageError) as error:
        read_run_file(path)
    assert error.value.message == f"{path}:3: num_generations must be a whole number of at least 1, not 'lots'"
