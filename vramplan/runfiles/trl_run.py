"""What TRL's names (SFTConfig, DPOConfig, GRPOConfig, ModelConfig) and TrainingArguments' describe.

Source: trl 1.16.0 trainer/*_config.py and scripts/*.py, transformers 5.23 training_args.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vramplan.runfiles.flat import FlatRun
from vramplan.runfiles.launch_run import fsdp_strategy
from vramplan.runfiles.runfile import Written
from vramplan.runfiles.settings import Settings, given, precision, quantization
from vramplan.runfiles.trl_names import DPO_ONLY, GRPO_ONLY, SFT_ONLY

# The Hub's builds of the same kernels (transformers 5, kernels-community).
_FLASH = frozenset({"kernels-community/flash-attn", "kernels-community/flash-attn2"})


def trl_run(written: Mapping[str, Written], *, method: str | None = None) -> FlatRun:
    """The run that these settings describe.

    Args:
        written: the settings.
        method: what the command says it is (`trl dpo`), which its settings need not.

    Raises:
        UsageError: a setting is of the wrong kind.
    """
    settings = Settings(written)
    method = method or trl_method(settings)
    values: dict[str, Any] = {
        "method": method,
        "model": settings.take("model", "model_name_or_path"),
        "mixed_precision": precision(settings, "bf16", "fp16"),
        "dtype": _dtype(settings),
        "attn_implementation": _attention(settings),
        "per_device_batch_size": settings.take("per_device_batch_size", "per_device_train_batch_size"),
        "num_gpus": settings.take("num_gpus", "num_processes"),
    }
    for key in ("gradient_accumulation_steps", "gradient_checkpointing", "optim"):
        values[key] = settings.take(key, key)
    values |= quantization(settings) | _sharding(settings)
    values |= _tuning(settings, quantised=values.get("quantization", "none") != "none")
    values |= {"sft": _sft, "dpo": _dpo, "grpo": _grpo}[method](settings)
    return FlatRun(**given(**values))


def trl_method(settings: Settings) -> str:
    """The method that the keys belong to; sft where they say nothing."""
    if settings.has(*GRPO_ONLY):
        return "grpo"
    loss = settings.find("loss_type")
    if settings.has(*DPO_ONLY) or (loss is not None and loss.value not in _SFT_LOSSES):
        return "dpo"
    if settings.has(*SFT_ONLY):
        return "sft"
    if settings.has("max_length"):
        return "dpo" if settings.has("beta") else "sft"
    return "grpo" if settings.has("beta", "max_completion_length") else "sft"


_SFT_LOSSES = ("nll", "dft", "chunked_nll")  # trl 1.16 sft_config.py


def _dtype(settings: Settings) -> str | None:
    # scripts/grpo.py: model_init_kwargs goes over ModelConfig's own
    keys = ("model_init_kwargs.dtype", "model_init_kwargs.torch_dtype", "dtype", "torch_dtype")
    if settings.text(*keys) == "auto":
        return "bf16" if quantization(settings).get("quantization", "none") == "none" else None
    found: str | None = settings.take("dtype", *keys)
    return found


def _attention(settings: Settings) -> str | None:
    keys = ("model_init_kwargs.attn_implementation", "attn_implementation")
    if settings.text(*keys) in _FLASH:
        return "flash_attention_2"
    found: str | None = settings.take("attn_implementation", *keys)
    return found


def _sharding(settings: Settings) -> dict[str, Any]:
    if settings.has("deepspeed_config.zero_stage", "zero_optimization.stage"):
        return {}  # a file of the launcher's says it in full
    for key in ("fsdp", "fsdp_config"):
        if (found := settings.find(key)) is not None and (strategy := fsdp_strategy(found.value)):
            return {"sharding": strategy}
    return {}


def _tuning(settings: Settings, *, quantised: bool) -> dict[str, Any]:
    """LoRA needs `use_peft`: get_peft_config returns None without it, whatever `lora_r` says."""
    use_peft = settings.switch("use_peft")
    lora_r = settings.take("lora_r", "lora_r")
    modules = settings.take("lora_target_modules", "lora_target_modules")
    if use_peft:
        return {"tuning": "lora", "lora_r": lora_r, "lora_target_modules": modules}
    if use_peft is False or quantised or lora_r is not None or modules is not None:
        return {"tuning": "full"}
    return {}


def _sft(settings: Settings) -> dict[str, Any]:
    return {"max_seq_length": settings.take("max_seq_length", "max_length", "max_seq_length")}


def _dpo(settings: Settings) -> dict[str, Any]:
    length = settings.take("max_seq_length", "max_length")
    values: dict[str, Any] = {"max_seq_length": length, "beta": settings.take("beta", "beta")}
    if length is None:
        for key in ("max_prompt_length", "max_completion_length"):
            values[key] = settings.take(key, key)
    return values


def _grpo(settings: Settings) -> dict[str, Any]:
    values = {
        "generations": settings.take("generations", "num_generations"),
        "vllm_max_model_length": settings.take("vllm_max_model_length", "vllm_max_model_length", "vllm_max_model_len"),
        "rollout": _backend(settings),
        "vllm_sleep": settings.take("vllm_sleep", "vllm_enable_sleep_mode"),
    }
    for key in ("max_prompt_length", "max_completion_length", "beta", "vllm_gpu_memory_utilization"):
        values[key] = settings.take(key, key)
    return values


def _backend(settings: Settings) -> str | None:
    use_vllm = settings.switch("use_vllm")
    if not use_vllm:
        return None if use_vllm is None else "hf"
    mode = settings.text("vllm_mode")
    if mode is None:
        # The default is colocate since 1.0, and was server before: a server that is named says which is meant.
        mode = "server" if settings.has("vllm_server_host", "vllm_server_port", "vllm_server_base_url") else "colocate"
    return "vllm-server" if mode == "server" else "vllm-colocate"
