"""How the model is loaded: what is refused, and what was asked for and never reaches it."""

from __future__ import annotations

from collections.abc import Iterator

from vramplan.planner.check.finding import Needs, Problem, Severity
from vramplan.planner.check.rule import Rule
from vramplan.planner.check.subject import Subject
from vramplan.runfiles.runfile import Tool, Written

_LOAD_KEYS = ("load_in_8bit", "load_in_4bit")


def _quantised(subject: Subject) -> tuple[Written | None, str] | None:
    """Where the trained model's quantisation is asked for, and its name; whether it arrives or not."""
    for key, one in subject.file.written.items():
        name = key.rpartition(".")[2]
        if name in _LOAD_KEYS and one.value is True:
            return one, "8-bit" if name == "load_in_8bit" else "4-bit"
    asked = subject.flat.teacher_quantization or subject.flat.quantization
    if asked not in (None, "none"):
        words = {"int8": "8-bit"}.get(asked, "4-bit")
        return subject.place_of("teacher_quantization") or subject.place_of("quantization"), words
    return None


def _full_quantised(subject: Subject) -> Iterator[Problem]:
    found = _quantised(subject)
    refusal = subject.refused_by("VP001")
    if found is None and refusal is not None:  # the checkpoint is quantised on disk
        at = subject.place_of("model") or subject.place_of("teacher")
        yield Problem(at=at, key="" if at else "model", message=refusal[0], hint=refusal[1])
    asks_adapters = subject.is_lora or subject.is_true("use_peft", "model_args.use_peft") is not None
    if found is None or not subject.trains or asks_adapters:
        return
    if subject.file.tool is Tool.OWN and subject.flat.tuning is None:
        return  # ours: quantised means adapters
    at, words = found
    yield Problem(
        at=at,
        key="" if at else "quantization",
        message=f'full training of a purely {words} model: transformers raises "You cannot perform fine-tuning on '
        'purely quantized models"',
        hint="train adapters (use_peft: true), or load the trained model unquantised",
    )


def _eight_bit_engine(subject: Subject) -> Iterator[Problem]:
    if (subject.flat.teacher_quantization or subject.flat.quantization) != "int8" or not subject.colocates:
        return
    at = subject.place_of("teacher_quantization") or subject.place_of("quantization")
    told = (
        "vLLM in RLT's process is given the model's name only, so it loads its own 16-bit copy beside the 8-bit one"
        if subject.is_rlt
        else 'TRL raises "vLLM does not support in-flight 8-bit quantization"'
    )
    yield Problem(
        at=at,
        key="" if at else "quantization",
        message=f"an 8-bit policy with vLLM on the same card: {told}",
        hint="use 4-bit, generate with transformers, or put vLLM on other cards",
    )


def _both_bits(subject: Subject) -> Iterator[Problem]:
    by_name = {
        key.rpartition(".")[2]: one
        for key, one in subject.file.written.items()
        if key.rpartition(".")[2] in _LOAD_KEYS and one.value is True
    }
    if len(by_name) == 2:
        yield Problem(
            at=by_name["load_in_8bit"],
            message="load_in_8bit and load_in_4bit are both true: transformers takes one of them only",
            hint="set one to false",
        )


def _half_types(subject: Subject) -> Iterator[Problem]:
    bf16, fp16 = subject.is_true("bf16", "trainer_args.bf16"), subject.is_true("fp16", "trainer_args.fp16")
    if bf16 is not None and fp16 is not None:
        yield Problem(
            at=fp16,
            message='bf16 and fp16 are both true: transformers raises "At most one of fp16 and bf16 can be True, but '
            'not both"',
            hint="set one to false; bf16 where the card has it",
        )


def _idle_adapters(subject: Subject) -> Iterator[Problem]:
    if subject.is_rlt or subject.file.tool is not Tool.TRL:
        return
    at = subject.written("lora_r", "lora_alpha", "lora_target_modules")
    peft = subject.file.get("use_peft")
    if at is None or (peft is not None and peft.value is True):
        return
    yield Problem(
        at=at,
        message=f"{at.key} does nothing: use_peft is not true, so all weights train, with gradients and states for "
        "each",
        hint="add use_peft: true, or take the LoRA settings out",
    )


def _fp16_of_bf16(subject: Subject) -> Iterator[Problem]:
    estimated, flat = subject.estimated, subject.flat
    if estimated is None or not subject.trains:
        return
    stored = estimated.setting.models[estimated.setting.run.trained.name].stored_dtype
    if stored not in ("bf16", "bfloat16") or "fp16" not in (flat.mixed_precision, flat.dtype):
        return
    at = subject.place_of("mixed_precision") if flat.mixed_precision == "fp16" else subject.place_of("dtype")
    yield Problem(
        at=at,
        key="" if at else "fp16",
        message="fp16 on a checkpoint that was trained in bf16: activations above 65,504 become inf, and losses NaN",
        hint="use bf16, or fp32 where the card has no bf16",
    )


LOADING_RULES = (
    Rule(
        id="VP001",
        title="full training of a quantised model",
        why="bitsandbytes weights have no gradient; the Trainer refuses a quantised model without adapters.",
        source="transformers 4.51.1 trainer.py 559-564; 5.23.0 trainer_utils.py validate_quantization_for_training",
        wrong="load_in_8bit: true\nuse_peft: false",
        right="load_in_8bit: true\nuse_peft: true",
        check=_full_quantised,
    ),
    Rule(
        id="VP007",
        title="8-bit policy with vLLM on the same card",
        why="vLLM quantises 4-bit bitsandbytes weights in flight, 8-bit ones not. RLT does not even try: its engine is "
        "a second, 16-bit copy of the model.",
        source="TRL 1.16.0 generation/vllm_generation.py 341-344; RLT trainers/grpo.py 504-515",
        wrong="load_in_8bit: true\nuse_vllm: true\nvllm_mode: colocate",
        right="load_in_4bit: true\nuse_vllm: true\nvllm_mode: colocate",
        check=_eight_bit_engine,
    ),
    Rule(
        id="VP049",
        title="LoRA settings without use_peft",
        why="TRL's get_peft_config returns None unless use_peft is true: the run trains every weight, eight times the "
        "memory that adapters take.",
        source="TRL 1.16.0 trainer/utils.py get_peft_config",
        wrong="lora_r: 16",
        right="use_peft: true\nlora_r: 16",
        check=_idle_adapters,
    ),
    Rule(
        id="VP052",
        title="bf16 and fp16 both",
        why="TrainingArguments refuses both.",
        source="transformers 5.23.0 training_args.py 1785",
        wrong="bf16: true\nfp16: true",
        right="bf16: true",
        check=_half_types,
    ),
    Rule(
        id="VP053",
        title="fp16 on a bf16 checkpoint",
        why="fp16 ends at 65,504, and models trained in bf16 (Qwen2.5, Llama 3, Gemma) reach further inside. It saves "
        "no memory over bf16.",
        source="transformers documentation, Underflow and overflow detection: models pretrained in bf16 used in fp16",
        wrong="model_name_or_path: Qwen/Qwen2.5-7B-Instruct\nfp16: true",
        right="model_name_or_path: Qwen/Qwen2.5-7B-Instruct\nbf16: true",
        needs=Needs.MODEL,
        severity=Severity.WARNING,
        check=_fp16_of_bf16,
    ),
    Rule(
        id="VP054",
        title="8-bit and 4-bit both",
        why="BitsAndBytesConfig refuses both, and TRL takes 4-bit without saying so.",
        source="transformers utils/quantization_config.py: load_in_4bit and load_in_8bit are both True, but only one "
        "can be used",
        wrong="load_in_8bit: true\nload_in_4bit: true",
        right="load_in_4bit: true",
        check=_both_bits,
    ),
)
