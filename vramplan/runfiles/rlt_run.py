"""What RLT's composed configuration runs: the settings that its code passes on, not those that it only holds.

Source: SakanaAI/RLT at 86a3f5c, research/training-memory.md §1 and §2.1. `trainer_args` and `trainer` reach the
trainer, `model_init_kwargs` reaches the models; `model_args` reaches nothing but get_peft_config.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vramplan.runfiles.flat import FlatRun
from vramplan.runfiles.runfile import Written
from vramplan.runfiles.settings import Settings, given, precision, quantization
from vramplan.runfiles.trl_names import words

PINS = {"transformers": "4.51.1", "trl": "0.14.0", "accelerate": "1.4.0"}
"""RLT's requirements_08.txt, lines 1 to 6."""

# trl 0.14.0, model_config.py, lines 75 to 152: Hydra refuses to instantiate `model_args` with any other.
MODEL_CONFIG_FIELDS = words(
    "model_name_or_path model_revision torch_dtype trust_remote_code attn_implementation use_peft lora_r lora_alpha "
    "lora_dropout lora_target_modules lora_modules_to_save lora_task_type use_rslora load_in_8bit load_in_4bit "
    "bnb_4bit_quant_type use_bnb_nested_quant"
)
_ROLLS_OUT = ("num_generations", "max_completion_length", "generation_aggregation_steps", "student_model", "use_vllm")


def rlt_run(written: Mapping[str, Written], *, trainer: str | None = None) -> FlatRun:
    """The run of a composed configuration, or of what one file of it says.

    Args:
        written: the settings.
        trainer: the name of a trainer_cfg that could not be composed.

    Raises:
        UsageError: a setting is of the wrong kind.
    """
    settings = Settings(written)
    method = _method(settings, trainer or "")
    model = settings.take("model", *_passed(settings, "trainer", "model"), "model_name_or_path")
    values: dict[str, Any] = {
        "method": method,
        ("model" if method == "sft" else "teacher"): model,
        "mixed_precision": precision(
            settings, *(_passed(settings, "trainer_args", key)[0] for key in ("bf16", "fp16"))
        ),
        "optim": settings.take("optim", "trainer_args.optim"),
        "gradient_checkpointing": settings.take(
            "gradient_checkpointing", *_passed(settings, "trainer_args", "gradient_checkpointing")
        ),
        "per_device_batch_size": settings.take(
            "per_device_batch_size", *_passed(settings, "trainer_args", "per_device_train_batch_size")
        ),
        "stack": PINS,
    }
    steps = settings.take("gradient_accumulation_steps", "gradient_accumulation_steps")
    if steps is None:
        values["batch_size"] = settings.take("batch_size", "train_batch_size")
    else:  # train.py, lines 80 to 84: train_batch_size is read only where the steps are `???`
        values["gradient_accumulation_steps"] = steps
    values |= _loading(settings, written) | _tuning(settings)
    values |= _sft(settings) if method == "sft" else _rollout(settings)
    return FlatRun(**given(**values))


def unread_of(written: Mapping[str, Written]) -> tuple[Written, ...]:
    """Keys of `model_args` that its class does not have."""
    return tuple(
        one
        for key, one in written.items()
        if key.startswith("model_args.")
        and not key.startswith("model_args._")
        and key.split(".")[1] not in MODEL_CONFIG_FIELDS
    )


def _passed(settings: Settings, to: str, key: str) -> tuple[str, ...]:
    """Where a setting is, once it is passed on: in a composed tree only there, in a file alone at the top too."""
    if settings.has(f"{to}._target_"):
        return (f"{to}.{key}",)
    return (f"{to}.{key}", key) if settings.has(f"{to}.{key}") else (key,)


def _method(settings: Settings, trainer: str) -> str:
    targets = (settings.text(f"{key}._target_") or "" for key in ("trainer", "trainer_args"))
    named = " ".join((*targets, trainer)).lower()
    if "sft" in named or "grpo" in named:
        return "sft" if "sft" in named else "rlt"
    return "rlt" if settings.has(*_ROLLS_OUT) or not settings.has("max_seq_length") else "sft"


def _loading(settings: Settings, written: Mapping[str, Written]) -> dict[str, Any]:
    """What from_pretrained is given; the student's is given the same (teacher_trainers.py, lines 41 to 54)."""
    prefixes = _init_kwargs(written)
    values: dict[str, Any] = {}
    for prefix in prefixes:
        values |= quantization(settings, prefix, default_type="fp4")
        values |= quantization(settings, f"{prefix}quantization_config.", default_type="fp4")
    keys = [f"{prefix}{key}" for prefix in prefixes for key in ("torch_dtype", "dtype")]
    if settings.text(*keys) != "auto":
        values["dtype"] = settings.take("dtype", *keys)
    elif not values:
        values["dtype"] = "bf16"
    keys = [f"{prefix}attn_implementation" for prefix in prefixes]
    values["attn_implementation"] = settings.take("attn_implementation", *keys)
    return values


def _init_kwargs(written: Mapping[str, Written]) -> tuple[str, ...]:
    """The mappings that reach from_pretrained: a composed tree passes the top one on only where it says so."""
    passed = "trainer_args.model_init_kwargs"
    if "trainer_args._target_" not in written:
        return ("model_init_kwargs.", f"{passed}.")
    reference = written.get(passed)
    if reference is not None and reference.value == "${model_init_kwargs}":
        return ("model_init_kwargs.",)
    return (f"{passed}.",)


def _tuning(settings: Settings) -> dict[str, Any]:
    if (settings.text("peft_config._target_") or "").endswith("LoraConfig"):
        return {"tuning": "lora"} | _lora(settings, "peft_config.r", "peft_config.target_modules")
    use_peft = settings.switch("model_args.use_peft", "use_peft")
    if use_peft is None:
        return {}
    if not use_peft:
        return {"tuning": "full"}
    return {"tuning": "lora"} | _lora(settings, "model_args.lora_r", "model_args.lora_target_modules")


def _lora(settings: Settings, rank: str, modules: str) -> dict[str, Any]:
    return {
        "lora_r": settings.take("lora_r", rank),
        "lora_target_modules": settings.take("lora_target_modules", modules),
    }


def _sft(settings: Settings) -> dict[str, Any]:
    keys = _passed(settings, "trainer_args", "max_seq_length")
    return {"max_seq_length": settings.take("max_seq_length", *keys)}


def _rollout(settings: Settings) -> dict[str, Any]:
    def arg(flat_key: str, key: str) -> Any:
        return settings.take(flat_key, *_passed(settings, "trainer_args", key))

    student = settings.take("student", *_passed(settings, "trainer", "student_model"))
    values = {
        "student": student,
        "generations": arg("generations", "num_generations"),
        "max_prompt_length": arg("max_prompt_length", "max_prompt_length"),
        "max_completion_length": arg("max_completion_length", "max_completion_length"),
        "beta": arg("beta", "beta"),
        "vllm_max_model_length": arg("vllm_max_model_length", "vllm_max_model_len"),
        "rollout": _backend(settings),
    }
    if values["rollout"] == "vllm-colocate":
        values["vllm_gpu_memory_utilization"] = arg("vllm_gpu_memory_utilization", "vllm_gpu_memory_utilization")
    offload = settings.switch(*_passed(settings, "trainer_args", "offload_untrained_models"))
    if offload is not None:
        kept = settings.switch(*_passed(settings, "trainer", "disable_student_offloading"))
        # teacher_trainers.py, lines 35 to 39: the student stays where it is told to, or is the reference
        both = student is not None and not kept
        values["offload"] = (("reference", "student") if both else ("reference",)) if offload else ()
    return values


def _backend(settings: Settings) -> str | None:
    server = settings.switch(*_passed(settings, "trainer_args", "use_vllm_server"))
    local = settings.switch(*_passed(settings, "trainer_args", "use_vllm"))
    if server:
        return "vllm-server"
    if local:
        return "vllm-colocate"
    return None if local is None else "hf"
