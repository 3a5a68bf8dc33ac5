"""A run as a run_cfg of SakanaAI/RLT's `cfgs/` tree, through the settings that its code passes on.

Source: SakanaAI/RLT at 86a3f5c, cfgs/run_cfg/teacher_rlt.yaml and what research/training-memory.md §2.1 says of each.
"""

from __future__ import annotations

from math import gcd

from vramplan.errors import UsageError
from vramplan.runfiles.draft import DTYPES, Draft, Text, row_length, trains_adapters
from vramplan.runfiles.flat import FlatRun
from vramplan.runfiles.rlt_run import PINS

_TRAINERS = {"rlt": "teacher_grpo", "sft": "base_sft"}


def write_rlt(flat: FlatRun) -> Text:
    """The file for `cfgs/run_cfg/`.

    Raises:
        UsageError: RLT does not train this way.
    """
    method = flat.method or ("rlt" if flat.teacher else "inference")
    if method not in _TRAINERS:
        raise UsageError(f"RLT does not train by {method}", hint="--write trl, or --method rlt")
    draft = Draft(flat=flat)
    draft.set(
        "defaults",
        [
            {"override /model_cfg@_global_": "qwen7bi"},
            {"override /data_cfg@_global_": "teacher_bespoke_stratos"},
            {"override /trainer_cfg@_global_": _TRAINERS[method]},
            "_self_",
        ],
        "method",
    )
    model = flat.teacher or flat.model
    if model is not None:
        draft.set("model_name_or_path", model, "model", "teacher")
    if flat.stack is not None and all(PINS.get(name) == version for name, version in flat.stack.items()):
        draft.say("stack")
    _batch(draft)
    _adapters(draft)
    loading = _loading(draft)
    arguments: dict[str, object] = {}
    if flat.optim is not None:
        arguments["optim"] = flat.optim
        draft.say("optim")
    if flat.mixed_precision is not None:
        draft.set("bf16", flat.mixed_precision == "bf16", "mixed_precision")
        if flat.mixed_precision == "fp16":
            arguments["fp16"] = True
    draft.put("gradient_checkpointing", "gradient_checkpointing")
    if method == "sft":
        length = row_length(flat)
        if length is not None:
            keys = ("max_seq_length", "context", "max_prompt_length", "max_completion_length")
            draft.set("max_seq_length", length, *keys)
        arguments |= {"model_init_kwargs": loading} if loading else {}
    else:
        _rollout(draft)
        draft.values |= {"model_init_kwargs": loading} if loading else {}
    if arguments:
        draft.set("trainer_args", arguments)
    return draft.yaml(["Save it as cfgs/run_cfg/NAME.yaml of SakanaAI/RLT. Run:", _command(flat)])


def _batch(draft: Draft) -> None:
    flat = draft.flat
    draft.put("per_device_train_batch_size", "per_device_batch_size")
    if flat.batch_size is not None:
        draft.put("train_batch_size", "batch_size")
        if flat.per_device_batch_size is not None:  # train.py derives the steps from both
            derived = flat.batch_size / (flat.per_device_batch_size * (flat.num_gpus or 1))
            if derived == flat.gradient_accumulation_steps:
                draft.say("gradient_accumulation_steps")
    else:
        draft.put("gradient_accumulation_steps", "gradient_accumulation_steps")


def _adapters(draft: Draft) -> None:
    adapters = trains_adapters(draft.flat)
    if adapters is None:
        return
    draft.set("use_peft", adapters, "tuning")
    if adapters:
        arguments: dict[str, object] = {}
        if draft.flat.lora_r is not None:
            arguments["lora_r"] = draft.flat.lora_r
        if draft.flat.lora_target_modules is not None:
            arguments["lora_target_modules"] = list(draft.flat.lora_target_modules)
        draft.say("lora_r", "lora_target_modules")
        if arguments:
            draft.set("model_args", arguments)


def _loading(draft: Draft) -> dict[str, object]:
    """What from_pretrained is given, for every role: `model_args` would not reach it."""
    flat = draft.flat
    loading: dict[str, object] = {}
    if flat.dtype is not None:
        loading["torch_dtype"] = DTYPES[flat.dtype]
    if flat.attn_implementation is not None:
        loading["attn_implementation"] = flat.attn_implementation
    if flat.quantization == "none":
        loading["load_in_8bit"] = False
    elif flat.quantization == "int8":
        loading["load_in_8bit"] = True
    elif flat.quantization is not None:
        loading |= {"load_in_4bit": True, "bnb_4bit_quant_type": flat.quantization}
        if flat.double_quant is not None:
            loading["bnb_4bit_use_double_quant"] = flat.double_quant
            draft.say("double_quant")
    draft.say("dtype", "attn_implementation", "quantization")
    # Hydra would hand over its own mapping, which from_pretrained cannot change.
    return {"_target_": "builtins.dict"} | loading if loading else {}


def _rollout(draft: Draft) -> None:
    flat = draft.flat
    draft.put("student_model", "student")
    # What RLT takes by itself, unless adapters train: then it is the policy with them off (grpo.py, lines 224 to 226).
    if flat.reference in (flat.teacher or flat.model, None) and not trains_adapters(flat):
        draft.say("reference")
    draft.put("num_generations", "generations")
    if flat.generations is not None and flat.per_device_batch_size is not None:
        rows = flat.per_device_batch_size * (flat.num_gpus or 1)
        # grpo.py, lines 375 to 382: whole groups of completions in every generation
        draft.set("generation_aggregation_steps", flat.generations // gcd(rows, flat.generations))
    for key in ("max_prompt_length", "max_completion_length"):
        length = getattr(flat, key) or flat.context
        if length is not None:
            draft.set(key, length, key, "context")
    draft.put("beta", "beta")
    if flat.rollout is not None:
        draft.set("use_vllm", flat.rollout == "vllm-colocate", "rollout")
        draft.set("use_vllm_server", flat.rollout == "vllm-server")
    if flat.rollout == "vllm-colocate":
        draft.put("vllm_gpu_memory_utilization", "vllm_gpu_memory_utilization")
    if flat.vllm_sleep is False:  # it never sleeps: vllm_sleep_level is for Ray only
        draft.say("vllm_sleep")
    draft.put("vllm_max_model_len", "vllm_max_model_length")
    offload = flat.offload
    if offload is not None and offload != ("student",):
        draft.set("offload_untrained_models", "reference" in offload, "offload")
        if flat.student is not None and offload == ("reference",):
            draft.set("disable_student_offloading", True)


def _command(flat: FlatRun) -> str:
    cards = flat.num_gpus or 1
    if flat.rollout == "vllm-server":
        return f"  ./launch_with_server.sh NUM_VLLM_GPUS {cards} cfgs/run_cfg/NAME.yaml"
    if cards == 1 and not (flat.sharding or "").startswith("zero"):
        return "  python train.py run_cfg@_global_=NAME"
    return f"  ./launch.sh {cards} cfgs/run_cfg/NAME.yaml"
