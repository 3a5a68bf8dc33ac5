"""Where a flat setting stands in another tool's file: the keys that mean it, the likeliest first."""

from __future__ import annotations

from vramplan.runfiles.flat_keys import ALIASES, SWITCHES

# What `flat_keys` does not know of: RLT's and TRL's own names, read in the files that `reader.py` names.
_MORE = {
    "model": ("model_name_or_path", "model"),
    "teacher": ("model_name_or_path", "teacher"),
    "student": ("student_model", "student"),
    "quantization": ("model_init_kwargs.load_in_8bit", "model_init_kwargs.load_in_4bit", "model_args.load_in_8bit"),
    "dtype": ("model_init_kwargs.torch_dtype", "model_init_kwargs.dtype", "torch_dtype"),
    "tuning": ("use_peft", "peft_config", "lora_r"),
    "rollout": ("use_vllm_server", "vllm_mode", "use_vllm"),
    "vllm_sleep": ("vllm_enable_sleep_mode",),
    "offload": ("offload_untrained_models",),
    "sharding": ("deepspeed", "fsdp", "zero_optimization.stage", "deepspeed_config.zero_stage", "distributed_type"),
    "num_gpus": ("num_processes",),
    "context": ("max_completion_length", "max_prompt_length"),
    "method": ("trainer._target_",),
    "attn_implementation": ("model_init_kwargs.attn_implementation",),
}


def spellings(key: str) -> tuple[str, ...]:
    """Dotted keys that may hold a flat setting."""
    other = [name for name, meant in ALIASES.items() if meant == key]
    switches = [name for name, (meant, _, _) in SWITCHES.items() if meant == key]
    names = [*other, key, *switches, *_MORE.get(key, ())]
    return tuple(dict.fromkeys([*names, *(f"trainer_args.{name}" for name in names)]))
