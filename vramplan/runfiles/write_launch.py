"""A run's placement as accelerate's configuration file.

Source: accelerate 1.15 commands/config/config_args.py, utils/dataclasses.py.
"""

from __future__ import annotations

from vramplan.runfiles.draft import Draft, Text, accumulation_steps
from vramplan.runfiles.flat import FlatRun


def write_accelerate(flat: FlatRun) -> Text:
    """The file for `accelerate launch --config_file FILE`: cards, sharding and precision, and nothing of the model."""
    draft = Draft(flat=flat)
    sharding = flat.sharding or ("ddp" if (flat.num_gpus or 1) > 1 else "none")
    draft.set("compute_environment", "LOCAL_MACHINE")
    if sharding.startswith("zero"):
        deepspeed: dict[str, object] = {
            "zero_stage": int(sharding[-1]),
            "zero3_init_flag": sharding == "zero3",
            "zero3_save_16bit_model": sharding == "zero3",
            "offload_optimizer_device": "none",
            "offload_param_device": "none",
        }
        steps = accumulation_steps(flat)
        if steps is not None:
            deepspeed["gradient_accumulation_steps"] = steps
            draft.say("gradient_accumulation_steps")
        draft.set("distributed_type", "DEEPSPEED", "sharding")
        draft.set("deepspeed_config", deepspeed)
    elif sharding == "fsdp_full_shard":
        draft.set("distributed_type", "FSDP", "sharding")
        draft.set(
            "fsdp_config",
            {
                "fsdp_version": 1,
                "fsdp_sharding_strategy": "FULL_SHARD",
                "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
                "fsdp_state_dict_type": "SHARDED_STATE_DICT",
                "fsdp_use_orig_params": True,
            },
        )
    else:
        alone = sharding == "none" and (flat.num_gpus or 1) == 1
        draft.set(
            "distributed_type", "NO" if alone else "MULTI_GPU", *(["sharding"] if alone or sharding == "ddp" else [])
        )
    draft.set("num_machines", 1)
    draft.set("num_processes", flat.num_gpus or 1, "num_gpus")
    draft.put("mixed_precision", "mixed_precision")
    return draft.yaml(["Run: accelerate launch --config_file FILE train.py ..."])
