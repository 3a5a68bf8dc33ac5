"""Launcher and trainer: what accelerate's and DeepSpeed's files say against the run's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vramplan.planner.check.finding import Problem, Severity
from vramplan.planner.check.rule import Rule
from vramplan.planner.check.subject import Subject
from vramplan.runfiles.runfile import Tool, Written

AUTO = "auto"


def _deepspeed(subject: Subject) -> Iterator[Problem]:
    if subject.is_launcher:
        return
    own = subject.file
    # A run names its DeepSpeed file, whose settings stand beside its own; RLT's train_batch_size is its own.
    named = {key: one for key, one in own.written.items() if one.place.file != own.path}
    for written in (named if own.tool in (Tool.TRL, Tool.TRAINING_ARGUMENTS) else {}, *_launchers(subject)):
        yield from _mismatches(subject, written)


def _launchers(subject: Subject) -> Iterator[Mapping[str, Written]]:
    for other in subject.beside:
        yield other.written


def _mismatches(subject: Subject, other: Mapping[str, Written]) -> Iterator[Problem]:
    flat = subject.flat
    rows, steps = flat.per_device_batch_size, subject.accumulation
    total = None if rows is None or steps is None else rows * steps * subject.world_size
    wanted: dict[str, object] = {
        "train_micro_batch_size_per_gpu": rows,
        "gradient_accumulation_steps": steps,
        "train_batch_size": total,
        "bf16.enabled": None if flat.mixed_precision is None else flat.mixed_precision == "bf16",
        "fp16.enabled": None if flat.mixed_precision is None else flat.mixed_precision == "fp16",
    }
    for key, value in wanted.items():
        at = other.get(key)
        if at is None or at.value in (None, AUTO) or value is None or at.value == value:
            continue
        yield Problem(
            at=at,
            message=f"DeepSpeed's {key} is {_word(at.value)} and the trainer's is {_word(value)}: transformers raises "
            '"Please correct the following DeepSpeed config values that mismatch TrainingArguments values"',
            hint='use "auto"',
            fixed='"auto"',
        )


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _precision(subject: Subject) -> Iterator[Problem]:
    asked = subject.flat.mixed_precision if subject.place_of("mixed_precision") in _own(subject) else None
    for other in subject.beside:
        at = other.get("mixed_precision")
        if asked is None or at is None or other.tool is not Tool.ACCELERATE or at.value in (None, asked):
            continue
        yield Problem(
            at=at,
            message=f"accelerate is told {_word(at.value)} and the trainer {asked}: "
            + ("autocast is on all the same" if asked == "no" else "the trainer's own setting wins"),
            hint="say the same in both",
            fixed=None if asked == "no" else asked,
        )


def _own(subject: Subject) -> tuple[Written | None, ...]:
    return tuple(subject.file.written.values())


def _processes(subject: Subject) -> Iterator[Problem]:
    asked = subject.file.flat.num_gpus
    at = subject.written("num_gpus", "num_processes")
    for other in subject.beside:
        number = other.flat.num_gpus
        if asked is None or at is None or number is None or number == asked:
            continue
        yield Problem(
            at=at,
            message=f"{asked} processes here and {number} in {other.path.name}: an update holds "
            f"{number}/{asked} of the completions that are meant",
            hint="give the same number in both",
        )


def _gather(subject: Subject) -> Iterator[Problem]:
    at = subject.file.get("ds3_gather_for_generation")
    if subject.file.tool is not Tool.TRL or at is None or at.value is not False:
        return
    if subject.flat.rollout in ("vllm-colocate", "vllm-server"):
        yield Problem(
            at=at,
            message="ds3_gather_for_generation: false does not go with vLLM, which is sent whole weights",
            hint="use true",
            fixed="true",
        )


def _shrinking(subject: Subject) -> Iterator[Problem]:
    at = subject.is_true("auto_find_batch_size")
    if at is not None and subject.flat.method == "grpo":
        yield Problem(
            at=at,
            message='TRL raises "auto_find_batch_size is not supported by GRPO": a smaller batch may hold no whole '
            "groups",
            hint="use false, and fewer rows a device",
            fixed="false",
        )


PLACE_RULES = (
    Rule(
        id="VP060",
        title="DeepSpeed's batch is not the trainer's",
        why="DeepSpeed's file may repeat the trainer's rows, steps and precision, and has to repeat them exactly; auto "
        "takes them over.",
        source="transformers 5.23.0 integrations/deepspeed.py 140-185, 258-262",
        wrong='"train_micro_batch_size_per_gpu": 4   # per_device_train_batch_size: 1',
        right='"train_micro_batch_size_per_gpu": "auto"',
        check=_deepspeed,
    ),
    Rule(
        id="VP061",
        title="accelerate and the trainer disagree on precision",
        why="TrainingArguments' bf16 and fp16 replace what accelerate launch was told; where both are false, the "
        "launcher's word holds. One of the two files says something that is not done.",
        source="transformers 5.23.0 training_args.py 1614-1618: fp16 and bf16 replace ACCELERATE_MIXED_PRECISION",
        wrong="mixed_precision: fp16      # and bf16: true in the run",
        right="mixed_precision: bf16",
        severity=Severity.WARNING,
        check=_precision,
    ),
    Rule(
        id="VP062",
        title="another number of processes than the launcher starts",
        why="The global batch is rows × processes × steps: a file written for another number makes other updates, and "
        "shards divide by the launcher's number.",
        source="accelerate launch num_processes; DESIGN: batch_size is completions per update over all devices",
        wrong="num_gpus = 8               # and num_processes: 4 in the launcher's file",
        right="num_gpus = 4",
        check=_processes,
    ),
    Rule(
        id="VP063",
        title="ds3_gather_for_generation: false with vLLM",
        why="The switch lets transformers generate on shards; vLLM needs whole weights, so the two exclude each other.",
        source='TRL 1.16.0 grpo_config.py ds3_gather_for_generation: "not compatible with vLLM generation"',
        wrong="use_vllm: true\nds3_gather_for_generation: false",
        right="use_vllm: true\nds3_gather_for_generation: true",
        check=_gather,
    ),
    Rule(
        id="VP064",
        title="auto_find_batch_size with GRPO",
        why="Halving the batch on an out-of-memory breaks groups of completions, so TRL refuses it.",
        source="TRL 1.16.0 grpo_config.py __post_init__",
        wrong="auto_find_batch_size: true",
        right="auto_find_batch_size: false",
        check=_shrinking,
    ),
)
