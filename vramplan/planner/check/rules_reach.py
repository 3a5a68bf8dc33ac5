"""Settings that are written and arrive nowhere: a run that is another than its file says."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from vramplan.planner.check.finding import Problem, Severity
from vramplan.planner.check.rule import Rule
from vramplan.planner.check.subject import Subject
from vramplan.runfiles.runfile import Tool, Written

# What RLT's model_args feed: get_peft_config, and nothing else (cfgs/trainer_cfg/base.yaml 56-60).
_MODEL_ARGS_IDLE = frozenset(
    {
        "load_in_8bit",
        "load_in_4bit",
        "torch_dtype",
        "attn_implementation",
        "bnb_4bit_quant_type",
        "use_bnb_nested_quant",
    }
)
# Settings of memory that mean something only where trainer_args or the trainer refers to them.
_PASSED_ON = (
    "load_in_8bit",
    "load_in_4bit",
    "torch_dtype",
    "dtype",
    "attn_implementation",
    "optim",
    "fp16",
    "student_model",
    "vllm_max_model_len",
    "vllm_gpu_memory_utilization",
    "offload_untrained_models",
    "backprop_accumulation_steps",
    "backprop_accumulation_micro_batch_size",
)


def _means_something(one: Written) -> bool:
    return one.value not in (None, False, "none", "None")


def _idle(subject: Subject) -> Iterator[Problem]:
    if not subject.is_rlt:
        return
    written = subject.file.written
    for key, one in written.items():
        parent, _, name = key.rpartition(".")
        if parent == "model_args" and name in _MODEL_ARGS_IDLE and _means_something(one):
            yield Problem(
                at=one,
                message=f"{name} never reaches the model: the trainer gets model_name_or_path and model_init_kwargs, "
                "model_args only decide on adapters",
                hint=f"put it into model_init_kwargs.{name}",
            )
        elif parent.partition(".")[0] == "run_cfg":
            yield Problem(
                at=one,
                message=f"{key} lies in a package of its own, run_cfg, which nothing reads",
                hint="compose it with run_cfg@_global_=NAME",
            )
    # A run's file by itself says nothing of what the trainer's passes on.
    several = len({one.place.file for one in written.values()}) > 1
    composed = several and any(key.startswith("trainer_args.") for key in written)
    for name in _PASSED_ON if composed else ():
        top = written.get(name)
        reached = any(f"{parent}.{name}" in written for parent in ("trainer_args", "trainer", "model_init_kwargs"))
        if top is not None and _means_something(top) and not reached:
            yield Problem(
                at=top,
                message=f"{name} is passed to nothing: neither trainer_args nor the trainer of this run has it",
                hint="use a trainer_cfg that passes it on, or take it out",
            )


def _unknown(subject: Subject) -> Iterator[Problem]:
    for one in subject.file.unread:
        word, _, group = one.key.partition(" ")
        if group and word in ("defaults", "override"):  # of Hydra's composition, not of a trainer
            yield Problem(
                at=one,
                key=f"{word}.{group}",
                message=f"Hydra finds no {group.partition('@')[0]} called {one.value}"
                if word == "defaults"
                else f"no defaults list has {group}, so Hydra cannot override it with {one.value}",
                hint="look at the names in that folder" if word == "defaults" else "compose from train.yaml",
            )
            continue
        parent, _, name = one.key.rpartition(".")
        near = get_close_matches(name, _known_names(subject), n=1, cutoff=0.75)
        hint = f"the nearest is {near[0]}" if near else "take it out, or look up its name in this version"
        if parent == "model_args":
            hint = f"model_init_kwargs.{name} is handed to from_pretrained"
        yield Problem(
            at=one,
            message=f"trl's ModelConfig has no field {name}: instantiating model_args fails"
            if parent == "model_args"
            else f"{_OWNERS.get(subject.file.tool, subject.file.tool.value)} has no setting {one.key}",
            hint=hint,
        )


_OWNERS = {
    Tool.RLT: "RLT",
    Tool.TRL: "TRL",
    Tool.TRAINING_ARGUMENTS: "TrainingArguments",
    Tool.ACCELERATE: "accelerate's configuration",
}


def _known_names(subject: Subject) -> list[str]:
    from vramplan.runfiles.trl_names import KNOWN

    unread = {one.key for one in subject.file.unread}
    return [*KNOWN, *(key.rpartition(".")[2] for key in subject.file.written if key not in unread)]


def _disagreeing(subject: Subject) -> Iterator[Problem]:
    """The run's cfg and the trainer's cfg that was written for it, with different steps in each."""
    won = subject.written("generation_aggregation_steps")
    if not subject.is_rlt or won is None:
        return
    for path in sorted({one.place.file for one in subject.file.written.values()}, key=str):
        if path == won.place.file:
            continue
        other = _top_level(path).get("generation_aggregation_steps")
        if other is None or other.value is None or other.value == won.value:
            continue
        yield Problem(
            at=won,
            message=f"generation_aggregation_steps is {won.value} here and {other.value} in {path.name}:"
            f"{other.place.line}, which it replaces: rollouts have {won.value} micro-batches of rows",
            hint="say it in one of the two, or null in the trainer's",
        )


def _top_level(path: Path) -> dict[str, Written]:
    """The settings of one YAML file by itself; nothing where it cannot be read (the reader has said so)."""
    from vramplan.errors import UsageError
    from vramplan.runfiles.tree import flatten
    from vramplan.runfiles.yaml_tree import yaml_tree

    if path.suffix not in (".yaml", ".yml"):
        return {}
    try:
        return flatten(yaml_tree(path.read_text(encoding="utf-8"), path))
    except (UsageError, OSError, UnicodeDecodeError):
        return {}


def _idle_engine(subject: Subject) -> Iterator[Problem]:
    """vLLM settings of a run that uses no vLLM; a composed RLT file always has them, so it is not asked."""
    at = subject.written("vllm_enable_sleep_mode", "vllm_mode", "vllm_gpu_memory_utilization")
    if subject.file.tool is not Tool.TRL or subject.flat.method != "grpo" or at is None:
        return
    uses = subject.file.get("use_vllm")
    if uses is None or uses.value is not True:
        yield Problem(
            at=at,
            message=f"{at.key} does nothing: use_vllm is not true, so transformers generates on the training weights",
            hint="add use_vllm: true, or take the vllm_ settings out",
        )


REACH_RULES = (
    Rule(
        id="VP047",
        title="settings that never reach the model",
        why="RLT's trainer gets the model's name and model_init_kwargs. What stands in model_args, or in keys that "
        "trainer_args do not refer to, changes nothing: the run loads fp32 weights where the file says 8-bit.",
        source="RLT cfgs/trainer_cfg/base.yaml 56-60, grpo.yaml 18, model_cfg/base.yaml 12, 28-30; trl 0.14.0 "
        "model_config.py",
        wrong="model_args:\n  load_in_8bit: true",
        right="model_init_kwargs:\n  load_in_8bit: true",
        check=_idle,
    ),
    Rule(
        id="VP048",
        title="a setting that the tool does not have",
        why="The tool stops at a key it does not know, or ignores it, and the run is another than the file says.",
        source="trl 0.14.0 model_config.py 75-152; HfArgumentParser refuses unknown keys",
        wrong="model_args:\n  device_map: auto",
        right="model_init_kwargs:\n  device_map: auto",
        check=_unknown,
    ),
    Rule(
        id="VP055",
        title="run_cfg and trainer_cfg disagree on the rollout",
        why="Hydra lets the run's file win in silence. Rows of a rollout are per_device_train_batch_size × "
        "generation_aggregation_steps, so the trainer's file, with its vLLM share and micro-batches, was written for "
        "another rollout.",
        source="Hydra defaults list: what stands later replaces; RLT trainers/grpo.py 309-323",
        wrong="# run_cfg/mine.yaml\ngeneration_aggregation_steps: 12\n# trainer_cfg/mine.yaml\n"
        "generation_aggregation_steps: 3",
        right="# run_cfg/mine.yaml\ngeneration_aggregation_steps: 12\n# trainer_cfg/mine.yaml\n"
        "generation_aggregation_steps: null",
        severity=Severity.WARNING,
        check=_disagreeing,
    ),
    Rule(
        id="VP056",
        title="vLLM settings without use_vllm",
        why="TRL reads vllm_mode, the share and sleep mode only where use_vllm is true; otherwise generate() runs on "
        "the training weights, with a KV cache for all rows at once.",
        source="TRL 1.16.0 grpo_config.py use_vllm: default False",
        wrong="vllm_mode: colocate\nvllm_gpu_memory_utilization: 0.3",
        right="use_vllm: true\nvllm_mode: colocate\nvllm_gpu_memory_utilization: 0.3",
        severity=Severity.WARNING,
        check=_idle_engine,
    ),
)
