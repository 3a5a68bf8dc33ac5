"""A run as TRL's YAML: ModelConfig and the trainer's own config in one flat file.

Source: trl 0.13 to 1.16 trainer/*_config.py.
"""

from __future__ import annotations

from vramplan.errors import UsageError
from vramplan.runfiles.draft import DTYPES, Draft, Text, accumulation_steps, row_length, trains_adapters
from vramplan.runfiles.flat import FlatRun
from vramplan.runfiles.trl_names import GRPO_ONLY

METHODS = ("sft", "dpo", "grpo")
_NEWEST = (1 << 30,)


def write_trl(flat: FlatRun) -> Text:
    """The file for `trl METHOD --config FILE`. A run of RLT's is written as GRPO, without its student.

    Raises:
        UsageError: TRL does not train this way.
    """
    method = flat.method or ("rlt" if flat.teacher else "inference")
    if method not in ("rlt", *METHODS):
        raise UsageError(f"TRL does not train by {method}", hint="--method sft, dpo or grpo")
    trained = "grpo" if method == "rlt" else method
    draft = Draft(flat=flat)
    if method != "rlt":
        draft.say("method")
    _model(draft)
    _training(draft)
    if trained == "grpo":
        _rollout(draft)
    else:
        length = row_length(flat)
        if length is not None:
            name = "max_seq_length" if trained == "sft" and _trl(flat) < (0, 17) else "max_length"
            draft.set(name, length, "max_seq_length", "context", "max_prompt_length", "max_completion_length")
        if trained == "dpo":
            draft.put("beta", "beta")
    _mark(draft, trained)
    launch = _launch(flat)
    needs = "--dataset_name NAME --reward_funcs NAME" if trained == "grpo" else "--dataset_name NAME"
    return draft.yaml([f"Run: trl {trained} --config FILE {needs}{launch}"])


def _mark(draft: Draft, trained: str) -> None:
    """A default that tells the methods apart, in a file that names none of their own settings."""
    if trained == "dpo":
        draft.values["precompute_ref_log_probs"] = False
    elif trained == "grpo" and not GRPO_ONLY & draft.values.keys():
        late = _trl(draft.flat) >= (0, 15)
        draft.values["ds3_gather_for_generation" if late else "temperature"] = True if late else 0.9


def _trl(flat: FlatRun) -> tuple[int, ...]:
    """The version of trl that is asked for; the newest where none is. What RLT pins is not asked of TRL."""
    named = None if flat.method == "rlt" else (flat.stack or {}).get("trl")
    numbers = [] if named is None else named.split(".")
    return tuple(int(number) for number in numbers if number.isdigit()) or _NEWEST


def _model(draft: Draft) -> None:
    flat = draft.flat
    model = flat.teacher or flat.model
    if model is not None:
        draft.set("model_name_or_path", model, "model", "teacher")
        # What the trainer takes by itself; but RLT's with adapters is a copy, where TRL switches the policy's off.
        if flat.reference == model and not (flat.method == "rlt" and trains_adapters(flat)):
            draft.say("reference")
    if flat.dtype is not None:
        draft.set("dtype" if _trl(flat) >= (0, 24) else "torch_dtype", DTYPES[flat.dtype], "dtype")
    draft.put("attn_implementation", "attn_implementation")
    quantization = flat.teacher_quantization or flat.quantization
    if quantization is not None:
        draft.set("load_in_8bit", quantization == "int8", "quantization", "teacher_quantization")
        draft.set("load_in_4bit", quantization in ("nf4", "fp4"))
        if quantization in ("nf4", "fp4"):
            draft.set("bnb_4bit_quant_type", quantization)
            draft.put("use_bnb_nested_quant", "double_quant")
    adapters = trains_adapters(flat)
    if adapters is not None:
        draft.set("use_peft", adapters, "tuning")
    if adapters:
        draft.put("lora_r", "lora_r")
        draft.put("lora_target_modules", "lora_target_modules")


def _training(draft: Draft) -> None:
    flat = draft.flat
    draft.put("per_device_train_batch_size", "per_device_batch_size")
    steps = accumulation_steps(flat)
    if steps is not None:
        # Of a run that gives both, the steps are what a file can say; with the rows they make the batch.
        draft.set("gradient_accumulation_steps", steps, "gradient_accumulation_steps")
        if flat.per_device_batch_size is not None:
            rows = flat.per_device_batch_size * (flat.num_gpus or 1) * steps
            draft.say(*(["batch_size"] if rows == flat.batch_size else []))
    draft.put("gradient_checkpointing", "gradient_checkpointing")
    draft.put("optim", "optim")
    if flat.mixed_precision is not None:
        draft.set("bf16", flat.mixed_precision == "bf16", "mixed_precision")
        draft.set("fp16", flat.mixed_precision == "fp16")


def _rollout(draft: Draft) -> None:
    flat, trl = draft.flat, _trl(draft.flat)
    draft.put("num_generations", "generations")
    completion = flat.max_completion_length or flat.context
    prompt = flat.max_prompt_length or flat.context
    if completion is not None:
        draft.set("max_completion_length", completion, "max_completion_length", "context")
    if prompt is not None:
        draft.say("context")
        if trl < (0, 28):  # gone from GRPOConfig in 0.28.0
            draft.set("max_prompt_length", prompt, "max_prompt_length")
        else:
            draft.leave("max_prompt_length")
    draft.put("beta", "beta")
    if flat.rollout is not None:
        draft.set("use_vllm", flat.rollout != "hf", "rollout")
        if flat.rollout != "hf" and trl >= (0, 18):
            draft.set("vllm_mode", flat.rollout.removeprefix("vllm-"))
    draft.put("vllm_gpu_memory_utilization", "vllm_gpu_memory_utilization")
    if trl >= (0, 23):
        draft.put("vllm_enable_sleep_mode", "vllm_sleep")
    if trl >= (0, 26, 2):
        draft.put("vllm_max_model_length", "vllm_max_model_length")
    elif trl < (0, 18):
        draft.put("vllm_max_model_len", "vllm_max_model_length")


def _launch(flat: FlatRun) -> str:
    """The launcher's part of the command, which the file cannot hold."""
    config = {"ddp": "multi_gpu", "fsdp_full_shard": "fsdp2", "none": "single_gpu"}
    parts = f" --accelerate_config {config.get(flat.sharding, flat.sharding)}" if flat.sharding is not None else ""
    return parts + (f" --num_processes {flat.num_gpus}" if flat.num_gpus is not None else "")
