"""Every key of a flat run, with the kind of value it has and the other names it goes by."""

from __future__ import annotations

from vramplan.runfiles.flat_kinds import Choice, Count, Dtype, Kind, Number, Size, Switch, Text, Versions, Words

_PRECISIONS = {"8bit": "int8", "8_bit": "int8", "4bit": "nf4", "4_bit": "nf4", "llm.int8": "int8", "no": "none"}
_QUANTIZATION = Choice(("none", "int8", "nf4", "fp4"), _PRECISIONS)

# transformers 5.23, training_args.py, OptimizerNames; those for other hardware than CUDA left out.
OPTIMIZERS = (
    "adamw_torch",
    "adamw_torch_fused",
    "adamw_torch_4bit",
    "adamw_torch_8bit",
    "adamw_8bit",
    "adamw_bnb_8bit",
    "adamw_anyprecision",
    "adafactor",
    "adagrad",
    "ademamix",
    "ademamix_8bit",
    "lion_32bit",
    "lion_8bit",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
    "paged_ademamix_32bit",
    "paged_ademamix_8bit",
    "paged_lion_32bit",
    "paged_lion_8bit",
    "rmsprop",
    "rmsprop_bnb",
    "rmsprop_bnb_8bit",
    "rmsprop_bnb_32bit",
    "sgd",
    "galore_adamw",
    "galore_adamw_8bit",
    "galore_adafactor",
    "galore_adamw_layerwise",
    "galore_adamw_8bit_layerwise",
    "galore_adafactor_layerwise",
    "lomo",
    "adalomo",
    "grokadamw",
    "schedule_free_radam",
    "schedule_free_adamw",
    "schedule_free_sgd",
    "apollo_adamw",
    "apollo_adamw_layerwise",
    "stable_adamw",
)

STACK_PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "vllm")

# In the order of the command line (DESIGN.md, "The command line"). The names are the flags', with `_` for `-`;
# only `architecture` differs, because its flag `--as` is a word that Python keeps for itself.
KINDS: dict[str, Kind] = {
    "model": Text(),
    "run": Text(),
    "teacher": Text(),
    "student": Text(),
    "reference": Text(),
    "architecture": Text(),
    "dtype": Dtype(),
    "quantization": _QUANTIZATION,
    "teacher_quantization": _QUANTIZATION,
    "student_quantization": _QUANTIZATION,
    "reference_quantization": _QUANTIZATION,
    "double_quant": Switch(),
    "kbit_fp32_upcast": Switch(),
    "method": Choice(("inference", "score", "sft", "dpo", "grpo", "rlt")),
    "tuning": Choice(("full", "lora")),
    "lora_r": Count(),
    "lora_target_modules": Words(),
    "adapter_dtype": Dtype(),
    "mixed_precision": Choice(("no", "bf16", "fp16"), {"none": "no", "bfloat16": "bf16", "float16": "fp16"}),
    "gradient_accumulation_steps": Count(),
    "optim": Choice(OPTIMIZERS),
    "gradient_checkpointing": Switch(),
    "attn_implementation": Choice(
        ("eager", "sdpa", "flash_attention_2"), {"flash": "flash_attention_2", "fa2": "flash_attention_2"}
    ),
    "batch_size": Count(),
    "per_device_batch_size": Count(),
    "generations": Count(),
    "context": Count(),
    "max_prompt_length": Count(),
    "max_completion_length": Count(),
    "max_seq_length": Count(),
    "rollout": Choice(("hf", "vllm-colocate", "vllm-server")),
    "vllm_gpu_memory_utilization": Number(0, 1, open_low=True),
    "vllm_sleep": Switch(),
    "vllm_max_model_length": Count(),
    "num_gpus": Count(),
    "sharding": Choice(("none", "ddp", "zero1", "zero2", "zero3", "fsdp_full_shard"), {"fsdp": "fsdp_full_shard"}),
    "offload": Words(("reference", "student"), none_word="none"),
    "beta": Number(0),
    "stack": Versions(STACK_PACKAGES, {"bnb": "bitsandbytes"}),
    "gpu": Text(),
    "gpu_mem": Size(),
}

# What TRL, transformers, peft and RLT call the same setting.
ALIASES = {
    "as": "architecture",
    "attn": "attn_implementation",
    "bnb_4bit_use_double_quant": "double_quant",
    "lora_rank": "lora_r",
    "max_length": "max_seq_length",
    "model_name_or_path": "model",
    "num_generations": "generations",
    "per_device_train_batch_size": "per_device_batch_size",
    "torch_dtype": "dtype",
    "train_batch_size": "batch_size",
    "vllm_max_model_len": "vllm_max_model_length",
}

# Booleans that stand for a value of another key: (key, value when true, values that agree with true).
SWITCHES = {
    "8bit": ("quantization", "int8", ("int8",)),
    "load_in_8bit": ("quantization", "int8", ("int8",)),
    "4bit": ("quantization", "nf4", ("nf4", "fp4")),
    "load_in_4bit": ("quantization", "nf4", ("nf4", "fp4")),
    "bf16": ("mixed_precision", "bf16", ("bf16",)),
    "fp16": ("mixed_precision", "fp16", ("fp16",)),
}
SWITCHED_OFF = {"quantization": "none", "mixed_precision": "no"}
