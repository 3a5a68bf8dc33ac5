"""A Trainer's arguments and model as the settings of a run: keys of `estimate --jsonl`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vramplan.errors import UsageError
from vramplan.runfiles.flat import parse_flat
from vramplan.runfiles.flat_keys import STACK_PACKAGES

_METHODS = {"SFTConfig": "sft", "DPOConfig": "dpo", "GRPOConfig": "grpo"}
_DTYPES = {"torch.bfloat16": "bf16", "torch.float16": "fp16", "torch.float32": "fp32"}


def run_settings(
    args: Any, model: Any, versions: Mapping[str, str | None], given: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The run, and notes on what could not be said of it.

    Args:
        args: TrainingArguments, or a class below it.
        model: what trains.
        versions: of the libraries.
        given: settings that the user gave; they replace what was found.

    Raises:
        UsageError: a setting that the user gave is none of a run's.
    """
    kept: dict[str, Any] = {}
    notes: list[str] = []
    for key, value in [*_of_arguments(args), *_of_model(model, args), *_of_versions(args, versions)]:
        try:
            kept |= parse_flat({key: value}, "").to_dict()
        except UsageError as error:
            notes.append(f"left out of the run: {error.message}")
    own = parse_flat(given, "MemoryCallback(run=…)")
    return parse_flat(kept, "").merged(own).to_dict(), tuple(notes)


def _of_arguments(args: Any) -> Iterator[tuple[str, Any]]:
    yield "method", next((_METHODS[one.__name__] for one in type(args).__mro__ if one.__name__ in _METHODS), "sft")
    yield "mixed_precision", "bf16" if args.bf16 else "fp16" if args.fp16 else "no"
    yield "gradient_accumulation_steps", args.gradient_accumulation_steps
    yield "optim", str(getattr(args.optim, "value", args.optim))
    yield "per_device_batch_size", args.per_device_train_batch_size
    for key, name in (
        ("generations", "num_generations"),
        ("max_prompt_length", "max_prompt_length"),
        ("max_completion_length", "max_completion_length"),
        ("beta", "beta"),
    ):
        if getattr(args, name, None) is not None:
            yield key, getattr(args, name)
    if args.world_size > 1:
        yield "num_gpus", args.world_size
        yield "sharding", _sharding(args)


def _sharding(args: Any) -> str:
    plugin = getattr(args, "deepspeed_plugin", None)
    if plugin is not None:
        return f"zero{plugin.zero_stage}" if plugin.zero_stage else "ddp"
    return "fsdp_full_shard" if args.fsdp else "ddp"


def _of_model(model: Any, args: Any) -> Iterator[tuple[str, Any]]:
    adapters = getattr(model, "peft_config", None)
    base = model.get_base_model() if adapters and hasattr(model, "get_base_model") else model
    config = getattr(base, "config", None)
    name = getattr(config, "_name_or_path", "")
    if name:
        yield "model", name
    dtype = _DTYPES.get(str(getattr(base, "dtype", "")))
    if dtype is not None:
        yield "dtype", dtype
    yield from _quantization(getattr(config, "quantization_config", None))
    attention = getattr(config, "_attn_implementation", None)
    if attention:
        yield "attn_implementation", attention
    yield "gradient_checkpointing", _recomputes(base, args)
    if not adapters:
        yield "tuning", "full"
        return
    adapter = next(iter(adapters.values()))
    yield "tuning", "lora"
    yield "lora_r", adapter.r
    targets = adapter.target_modules
    yield "lora_target_modules", targets if isinstance(targets, str) else sorted(targets)
    trained = next((one for one in model.parameters() if one.requires_grad), None)
    if trained is not None and str(trained.dtype) in _DTYPES:
        yield "adapter_dtype", _DTYPES[str(trained.dtype)]


def _recomputes(model: Any, args: Any) -> bool:
    # transformers 5.23 renamed both, and warns of the model's old name (modeling_utils.py, training_args.py).
    asked = getattr(args, "activation_checkpointing", None)
    if asked is None:
        asked = getattr(args, "gradient_checkpointing", False)
    does = getattr(model, "is_activation_checkpointing", None)
    if does is None:
        does = getattr(model, "is_gradient_checkpointing", False)
    return bool(asked or does)


def _quantization(config: Any) -> Iterator[tuple[str, Any]]:
    if config is None:
        return
    values = config if isinstance(config, dict) else config.to_dict()
    if values.get("load_in_8bit"):
        yield "quantization", "int8"
    elif values.get("load_in_4bit"):
        yield "quantization", values.get("bnb_4bit_quant_type", "fp4")
        yield "double_quant", bool(values.get("bnb_4bit_use_double_quant"))
    else:
        yield "quantization", values.get("quant_method")


def _of_versions(args: Any, versions: Mapping[str, str | None]) -> Iterator[tuple[str, Any]]:
    # trl is named where its trainer runs: naming it says that its code does what it does.
    own = any(one.__module__.split(".")[0] == "trl" for one in type(args).__mro__)
    names = [name for name in STACK_PACKAGES if name != "trl" or own]
    yield "stack", {name: versions[name] for name in names if versions.get(name)}
