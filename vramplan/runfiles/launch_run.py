"""What launchers' files say of a run: accelerate's configuration and DeepSpeed's.

Source: accelerate 1.15 commands/config/config_args.py and utils/dataclasses.py; DeepSpeed's configuration JSON as
transformers 5.23 integrations/deepspeed.py fills it (`auto` stands for the trainer's own value).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vramplan.errors import UsageError
from vramplan.runfiles.flat import FlatRun
from vramplan.runfiles.runfile import Written
from vramplan.runfiles.settings import Settings, given, where
from vramplan.runfiles.trl_names import words

# accelerate 1.15 config_args.py, ClusterConfig; `fp16` and `dynamo_backend` are the older spellings it still takes.
ACCELERATE_FIELDS = words(
    "compute_environment distributed_type mixed_precision use_cpu debug num_processes machine_rank num_machines "
    "gpu_ids main_process_ip main_process_port rdzv_backend same_network main_training_function enable_cpu_affinity "
    "fp8_config deepspeed_config fsdp_config parallelism_config megatron_lm_config mpirun_config downcast_bf16 "
    "tpu_name tpu_zone tpu_use_cluster tpu_use_sudo command_file commands tpu_vm tpu_env dynamo_config fp16 "
    "dynamo_backend"
)
# Of FSDP's strategies the one that divides everything; accelerate writes its number too (utils/constants.py).
_FULL_SHARD = frozenset({"FULL_SHARD", "1"})


def launch_values(written: Mapping[str, Written]) -> dict[str, Any]:
    """Flat settings of an accelerate configuration, a DeepSpeed one, or both together.

    Raises:
        UsageError: a setting is of the wrong kind.
    """
    settings = Settings({key: one for key, one in written.items() if one.value != "auto"})
    values = {
        "num_gpus": settings.take("num_gpus", "num_processes"),
        "sharding": _sharding(settings),
        "mixed_precision": _precision(settings),
        "per_device_batch_size": settings.take("per_device_batch_size", "train_micro_batch_size_per_gpu"),
        "gradient_accumulation_steps": settings.take(
            "gradient_accumulation_steps", "gradient_accumulation_steps", "deepspeed_config.gradient_accumulation_steps"
        ),
    }
    if settings.below("zero_optimization"):
        values["batch_size"] = settings.take("batch_size", "train_batch_size")
    return given(**values)


def launch_run(written: Mapping[str, Written]) -> FlatRun:
    """What one launcher's file says of a run: no model, no method.

    Raises:
        UsageError: a setting is of the wrong kind.
    """
    return FlatRun(**launch_values(written))


def fsdp_strategy(value: object) -> str | None:
    """The flat strategy of TrainingArguments' `fsdp`, or None where it shards nothing that is modelled."""
    if value is True:
        return "fsdp_full_shard"
    words = value.split() if isinstance(value, str) else value
    if isinstance(words, list) and "full_shard" in [str(word) for word in words]:
        return "fsdp_full_shard"
    return None


def _sharding(settings: Settings) -> str | None:
    stage = settings.find("zero_optimization.stage", "deepspeed_config.zero_stage")
    if stage is not None:
        try:
            number = int(str(stage.value))
        except ValueError:
            number = -1
        if isinstance(stage.value, bool) or number not in (0, 1, 2, 3):
            raise UsageError(f"{where(stage.place)}: {stage.key} must be 0, 1, 2 or 3, not {stage.value!r}")
        return f"zero{number}" if number else "ddp"
    kind = settings.find("distributed_type")
    if kind is None:
        return None
    word = _word(kind.value).upper()
    if word == "FSDP":
        strategy = settings.find("fsdp_config.fsdp_sharding_strategy", "fsdp_config.fsdp_reshard_after_forward")
        full = strategy is None or _word(strategy.value).upper() in _FULL_SHARD or strategy.value is True
        return "fsdp_full_shard" if full else None
    return {"NO": "none", "MULTI_GPU": "ddp"}.get(word)


def _precision(settings: Settings) -> str | None:
    for name in ("bf16", "fp16"):
        if settings.switch(f"{name}.enabled"):
            return name
    found = settings.find("mixed_precision")
    if found is None or _word(found.value) == "fp8":  # fp8 is no autocast type here
        return None
    word = _word(found.value)
    if word not in ("no", "bf16", "fp16"):
        raise UsageError(f"{where(found.place)}: {found.key} must be one of no, bf16, fp16, fp8, not {found.value!r}")
    return word


def _word(value: object) -> str:
    """A word of accelerate's; an unquoted `no` is false to YAML."""
    return "no" if value is False else str(value).strip()
