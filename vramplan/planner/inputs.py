"""The resolved run as flat keys: what `inputs` of a report shows, and what would give the same report again."""

from __future__ import annotations

from vramplan.core.run import Quantization
from vramplan.formula.setting import Setting
from vramplan.runfiles.flat import FlatRun


def resolved_inputs(flat: FlatRun, setting: Setting) -> dict[str, object]:
    """Every setting of the run, defaults filled in; the same keys whatever the run."""
    run, sizes, training = setting.run, setting.run.sizes, setting.run.training
    roles = {role.name: role for role in run.roles}
    lora = None if training is None else training.lora
    inputs: dict[str, object] = {"run": flat.run, "architecture": flat.architecture}
    for name in ("model", "teacher", "student", "reference"):
        inputs[name] = roles[name].model if name in roles else None
    trained = run.trained.load
    inputs |= {
        "dtype": trained.dtype.label,
        "quantization": _asked(trained.quantization),
        "double_quant": trained.double_quant,
        # Null is TRL's own way, by version: `true` would be peft's, and another report.
        "kbit_fp32_upcast": None
        if trained.kbit_norms_only or trained.kbit_bf16_embeddings
        else trained.kbit_fp32_upcast,
    }
    for name in ("teacher", "student", "reference"):
        quantization = roles[name].load.quantization if name in roles else None
        inputs[f"{name}_quantization"] = None if quantization is None else _asked(quantization)
    inputs |= {
        "method": run.method.value,
        "tuning": None if training is None else training.tuning.value,
        "lora_r": None if lora is None else lora.r,
        "lora_target_modules": None if lora is None else list(lora.target_modules),
        "adapter_dtype": None if lora is None else lora.dtype.label,
        "mixed_precision": None
        if training is None
        else ("no" if training.mixed_precision is None else training.mixed_precision.label),
        "gradient_accumulation_steps": None if training is None else training.gradient_accumulation_steps,
        "optim": None if training is None else training.optim,
        "gradient_checkpointing": None if training is None else training.gradient_checkpointing,
        "attn_implementation": run.attn_implementation.value,
        "batch_size": sizes.batch_size,
        "per_device_batch_size": sizes.per_device_batch_size,
        "generations": sizes.num_generations if run.method.rolls_out else None,
        "rollout_rows": sizes.rollout_rows if run.method.rolls_out else None,
        "max_prompt_length": sizes.max_prompt_length if sizes.max_completion_length else None,
        "max_completion_length": sizes.max_completion_length or None,
        "max_seq_length": None if sizes.max_completion_length else sizes.max_prompt_length,
        "rollout": None if run.rollout is None else run.rollout.backend.value,
        "vllm_gpu_memory_utilization": None if run.rollout is None else run.rollout.gpu_memory_utilization,
        "vllm_sleep": None if run.rollout is None else run.rollout.sleep,
        "vllm_max_model_length": flat.vllm_max_model_length,
        "num_gpus": flat.num_gpus,
        "sharding": flat.sharding,
        "offload": [role.name for role in run.roles if role.offloaded],
        "beta": run.beta,
        "stack": {name: setting.stack.versions[name] for name in sorted(setting.stack.named)},
        "gpu": flat.gpu,
        "gpu_mem_bytes": flat.gpu_mem,
    }
    return inputs


def _asked(quantization: Quantization) -> str | None:
    """The flag's value; a checkpoint that loads as it is stored was asked for nothing."""
    return None if quantization is Quantization.STORED else quantization.value
