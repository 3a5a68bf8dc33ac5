"""A `cfgs/` tree of RLT's shape, in our own words: values of research/training-memory.md §1.1 and §2.1."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

FILES = {
    "train.yaml": """\
defaults:
  - _self_
  - model_cfg@_global_: qwen7bi
  - data_cfg@_global_: stratos
  - trainer_cfg@_global_: base_sft
  - run_cfg@_global_: default
results_dir: results
output_dir: ${results_dir}/${now:%Y}
hydra:
  run:
    dir: ${output_dir}
""",
    "data_cfg/stratos.yaml": "dataset_id_or_path: bespokelabs/Bespoke-Stratos-17k\n",
    "model_cfg/base.yaml": """\
model_name_or_path:
use_peft: false
load_in_4bit: false
model_args:
  _target_: trl.ModelConfig
  model_name_or_path: ${model_name_or_path}
  use_peft: ${use_peft}
  load_in_4bit: ${load_in_4bit}
peft_config:
  _target_: trl.get_peft_config
  model_args: ${model_args}
""",
    "model_cfg/qwen7bi.yaml": """\
defaults:
  - base
  - _self_
model_name_or_path: Qwen/Qwen2.5-7B-Instruct
model_args:
  torch_dtype: bfloat16
  attn_implementation: flash_attention_2
""",
    "trainer_cfg/base.yaml": """\
train_batch_size: 64
per_device_train_batch_size: 2
gradient_accumulation_steps: ???
gradient_checkpointing: true
learning_rate: 5e-7
bf16: true
trainer_args:
  _target_: transformers.TrainingArguments
  per_device_train_batch_size: ${per_device_train_batch_size}
  gradient_accumulation_steps: ${gradient_accumulation_steps}
  gradient_checkpointing: ${gradient_checkpointing}
  learning_rate: ${learning_rate}
  bf16: ${bf16}
trainer:
  _target_:
  model: ${model_name_or_path}
  args: ${trainer_args}
  peft_config: ${peft_config}
""",
    "trainer_cfg/base_sft.yaml": """\
defaults:
  - base
  - _self_
max_seq_length: 4096
trainer_args:
  _target_: trl.SFTConfig
  max_seq_length: ${max_seq_length}
""",
    "trainer_cfg/grpo.yaml": """\
defaults:
  - base
  - _self_
train_batch_size: 252
per_device_train_batch_size: 3
num_generations: null
beta: 0.04
model_init_kwargs: null
max_prompt_length: 2048
max_completion_length: 16384
generation_aggregation_steps: null
use_vllm: true
vllm_gpu_memory_utilization: 0.9
vllm_max_model_len: null
use_vllm_server: false
offload_untrained_models: false
trainer_args:
  _target_: trainers.GRPOConfig
  model_init_kwargs: ${model_init_kwargs}
  num_generations: ${num_generations}
  max_prompt_length: ${max_prompt_length}
  max_completion_length: ${max_completion_length}
  generation_aggregation_steps: ${generation_aggregation_steps}
  use_vllm: ${use_vllm}
  vllm_gpu_memory_utilization: ${vllm_gpu_memory_utilization}
  vllm_max_model_len: ${vllm_max_model_len}
  use_vllm_server: ${use_vllm_server}
  offload_untrained_models: ${offload_untrained_models}
  beta: ${beta}
trainer:
  _target_: trainers.GRPOTrainer
""",
    "trainer_cfg/reward_cfg/logprob_kl.yaml": "kl_penalty_reward_coeff: [3, 0.03]\n",
    "trainer_cfg/teacher_grpo.yaml": """\
defaults:
  - grpo
  - reward_cfg@_global_: logprob_kl
  - _self_
student_model: null
disable_student_offloading: false
trainer:
  _target_: trainers.TeacherGRPOTrainer
  student_model: ${student_model}
  disable_student_offloading: ${disable_student_offloading}
""",
    "run_cfg/teacher_rlt.yaml": """\
defaults:
  - override /model_cfg@_global_: qwen7bi
  - override /data_cfg@_global_: stratos
  - override /trainer_cfg@_global_: teacher_grpo
  - _self_
train_batch_size: 1024
per_device_train_batch_size: 1
generation_aggregation_steps: 256
num_generations: 64
beta: 0.04
student_model: bespokelabs/Bespoke-Stratos-7B
offload_untrained_models: true
max_prompt_length: 16384
max_completion_length: 16384
use_vllm: false
use_vllm_server: true
log_name: gr${num_generations}_${max_prompt_length}ctx
""",
    "run_cfg/mono_85gb.yaml": """\
defaults:
  - override /model_cfg@_global_: qwen7bi
  - override /trainer_cfg@_global_: teacher_grpo
  - _self_
train_batch_size: 96
per_device_train_batch_size: 3
generation_aggregation_steps: 12
num_generations: 24
student_model: bespokelabs/Bespoke-Stratos-7B
max_prompt_length: 6144
max_completion_length: 6144
vllm_gpu_memory_utilization: 0.55
vllm_max_model_len: 6144
model_args:
  load_in_8bit: true
  device_map: auto
""",
}


@pytest.fixture
def rlt_tree(tmp_path: Path) -> Callable[..., Path]:
    """Writes the tree and returns its `cfgs`; keywords add or replace files: `run_cfg__x="…"`."""

    def write(**changed: str) -> Path:
        cfgs = tmp_path / "cfgs"
        for name, text in (FILES | {f"{key.replace('__', '/')}.yaml": text for key, text in changed.items()}).items():
            path = cfgs / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return cfgs

    return write


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, str], Path]:
    """Writes one file."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write
