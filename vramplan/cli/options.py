"""The flags that estimate, simulate, measure and recommend share, and the decorator that gives them to a command."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from vramplan.errors import UsageError
from vramplan.runfiles.flat import FlatRun, parse_flat_flags
from vramplan.runfiles.flat_keys import KINDS
from vramplan.runfiles.flat_kinds import Switch

ROLES, LOADING, DOING, SIZES = "Roles", "Loading", "Doing", "Sizes"
ROLLOUT, PLACING, VERSIONS, OUTPUT = "Rollout", "Placing", "Versions", "Output"

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.", rich_help_panel=OUTPUT)]
AsCsv = Annotated[bool, typer.Option("--csv", help="One CSV row per phase and component.", rich_help_panel=OUTPUT)]
AsMarkdown = Annotated[bool, typer.Option("--markdown", help="Markdown tables.", rich_help_panel=OUTPUT)]
Units = Annotated[str, typer.Option("--units", metavar="GB|GiB|bytes", help="Of tables.", rich_help_panel=OUTPUT)]
Explain = Annotated[
    bool,
    typer.Option("--explain", help="Also every formula with its numbers, and its source.", rich_help_panel=OUTPUT),
]
JsonLines = Annotated[
    str | None,
    typer.Option(
        "--jsonl",
        metavar="FILE|-",
        help='Many runs: a line {"id", "run": {…}} in, a report or an error out. Flags given beside it hold for '
        "lines that do not set them.",
        rich_help_panel=OUTPUT,
    ),
]
Html = Annotated[
    str | None,
    typer.Option("--html", metavar="FILE", help="Also one self-contained page.", rich_help_panel=OUTPUT),
]
ProfileDirFlag = Annotated[
    list[str] | None,
    typer.Option("--profile-dir", metavar="DIR", help="Profiles that hide shipped ones.", rich_help_panel=OUTPUT),
]


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag of a run: its key, help panel, placeholder and help."""

    key: str
    panel: str
    metavar: str | None
    help: str

    @property
    def name(self) -> str:
        """The flag's own spelling."""
        return "--as" if self.key == "architecture" else f"--{self.key.replace('_', '-')}"

    @property
    def is_switch(self) -> bool:
        """Whether it has no value."""
        return isinstance(KINDS[self.key], Switch)


def _choices(key: str) -> str:
    return "|".join(KINDS[key].known)


_QUANTIZATIONS = "none|int8|nf4|fp4"
FLAGS = (
    Flag(
        "run",
        ROLES,
        "PROFILE|FILE",
        "A shipped run (rlt-85gb-conservative), a TOML file, or a file of RLT's, TRL's or accelerate's.",
    ),
    Flag("model", ROLES, "ID", "The same as MODEL."),
    Flag("teacher", ROLES, "ID", "The model that is trained: a profile, a Hub id, a folder or a config.json."),
    Flag("student", ROLES, "ID", "The model that scores."),
    Flag("reference", ROLES, "ID|none", "The model that the trained one is held against."),
    Flag("architecture", ROLES, "MODEL_TYPE", "Read the config as this model_type."),
    Flag("dtype", LOADING, "bf16|fp16|fp32", "Of weights that are not quantised."),
    Flag("quantization", LOADING, _QUANTIZATIONS, "Of every role by bitsandbytes."),
    Flag("teacher_quantization", LOADING, _QUANTIZATIONS, "Of the teacher."),
    Flag("student_quantization", LOADING, _QUANTIZATIONS, "Of the student."),
    Flag("reference_quantization", LOADING, _QUANTIZATIONS, "Of the reference."),
    Flag("double_quant", LOADING, None, "4-bit scales are themselves quantised."),
    Flag("kbit_fp32_upcast", LOADING, None, "peft's prepare_model_for_kbit_training was called."),
    Flag("method", DOING, _choices("method"), "What is done."),
    Flag("tuning", DOING, "full|lora", "What is trained."),
    Flag("lora_r", DOING, "N", "Rank of the adapters."),
    Flag("lora_target_modules", DOING, "A,B", "Endings of module names, or all-linear."),
    Flag("adapter_dtype", DOING, "bf16|fp16|fp32", "Of the adapters."),
    Flag("mixed_precision", DOING, "no|bf16|fp16", "Autocast."),
    Flag("gradient_accumulation_steps", DOING, "N", "Micro-batches per optimizer update."),
    Flag("optim", DOING, "NAME", "As transformers names it: adamw_torch, adamw_8bit, paged_adamw_8bit, adafactor, …"),
    Flag("gradient_checkpointing", DOING, None, "Recompute each layer in the backward."),
    Flag("attn_implementation", DOING, _choices("attn_implementation"), "Which attention code runs."),
    Flag("beta", DOING, "X", "KL coefficient of GRPO and DPO; 0 lets TRL skip the reference."),
    Flag("batch_size", SIZES, "N", "Completions per optimizer update, over all GPUs."),
    Flag("per_device_batch_size", SIZES, "N", "Rows in one forward on one GPU."),
    Flag("generations", SIZES, "N", "Completions per prompt."),
    Flag("context", SIZES, "N", "Prompt and completion length, each."),
    Flag("max_prompt_length", SIZES, "N", "Prompt tokens of a row."),
    Flag("max_completion_length", SIZES, "N", "Completion tokens of a row."),
    Flag("max_seq_length", SIZES, "N", "Tokens of a row where it is one sequence (sft, score)."),
    Flag("rollout", ROLLOUT, _choices("rollout"), "What generates completions."),
    Flag("vllm_gpu_memory_utilization", ROLLOUT, "X", "vLLM's share of the whole card."),
    Flag("vllm_sleep", ROLLOUT, None, "vLLM gives its memory back outside the rollout."),
    Flag("vllm_max_model_length", ROLLOUT, "N", "Longest row that vLLM serves."),
    Flag("gpu_mem", PLACING, "SIZE", "The budget: 85 (GB), 85GB, 80GiB, 81559MiB."),
    Flag("gpu", PLACING, "PROFILE", "The card: h100-80gb, t4, … Its memory is the budget if --gpu-mem is not given."),
    Flag("num_gpus", PLACING, "N", "How many share the run."),
    Flag("sharding", PLACING, _choices("sharding"), "How states are divided over GPUs."),
    Flag("offload", PLACING, "ROLE,ROLE", "Roles that rest in host memory: reference, student."),
    Flag("stack", VERSIONS, "PKG=V,PKG=V", "Library versions (default: what is installed, else the newest known)."),
)


def run_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the flags of a run.

    Args:
        command: takes a FlatRun first; its other parameters must be keyword-only, texts, lists of texts or switches.

    Returns:
        a function that typer can register; with _plain.PlainCommand if `plain_options` is true of it.
    """
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    shared = list(_parameters())
    names = [parameter.name for parameter in shared]

    @functools.wraps(command)
    def wrapper(**values: Any) -> Any:
        given = {name: values.pop(name) for name in names}
        return command(_flat_run(given), **values)

    signature = inspect.Signature([*shared, *own])
    wrapper.__signature__ = signature  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in signature.parameters.values()}
    wrapper.plain_options = True  # type: ignore[attr-defined]
    return wrapper


def _parameters() -> Iterator[inspect.Parameter]:
    model = typer.Argument(metavar="MODEL", help="One model, where there is only one.", show_default=False)
    yield _parameter(_POSITIONAL, Annotated[str | None, model], None)
    for flag in FLAGS:
        if flag.is_switch:
            option = typer.Option(f"{flag.name}/--no-{flag.name[2:]}", help=flag.help, rich_help_panel=flag.panel)
            yield _parameter(flag.key, Annotated[bool | None, option], None)
            continue
        option = typer.Option(flag.name, metavar=flag.metavar, help=flag.help, rich_help_panel=flag.panel)
        yield _parameter(flag.key, Annotated[str | None, option], None)
        if flag.key == "dtype":
            for name, bits in (("load_in_8bit", "8bit"), ("load_in_4bit", "4bit")):
                short = typer.Option(f"--{bits}", help=f"--quantization {_BITS[bits]}", rich_help_panel=LOADING)
                yield _parameter(name, Annotated[bool, short], False)


_POSITIONAL = "model_argument"
_BITS = {"8bit": "int8", "4bit": "nf4"}


def _parameter(name: str, annotation: object, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _flat_run(values: dict[str, str | bool | None]) -> FlatRun:
    positional = values.pop(_POSITIONAL)
    if positional is not None and values["model"] is not None:
        raise UsageError("MODEL and --model are the same setting", hint="give one of them")
    if positional is not None:
        values["model"] = positional
    renamed = {"architecture": "as", "load_in_8bit": "8bit", "load_in_4bit": "4bit"}
    # A switch that was not given says nothing; `--no-…` says false.
    given = {
        renamed.get(name, name).replace("_", "-"): value
        for name, value in values.items()
        if value is not None and not (name in ("load_in_8bit", "load_in_4bit") and value is False)
    }
    return parse_flat_flags(given)
