"""Rows and tokens of a run: which words of the field mean which (research/training-memory.md §4)."""

from __future__ import annotations

from math import lcm

from vramplan.core.run import Method, Sizes
from vramplan.core.stack import Stack
from vramplan.errors import UsageError
from vramplan.runfiles.flat import FlatRun

DEFAULT_LENGTHS = {
    # (prompt, completion) tokens
    Method.INFERENCE: (2048, 512),
    Method.SCORE: (2048, 0),
    Method.SFT: (1024, 0),  # TRL SFTConfig.max_length
    Method.DPO: (1024, 0),  # TRL DPOConfig.max_length
    Method.GRPO: (512, 512),  # TRL GRPOConfig.max_completion_length from 1.0; prompts as long
    Method.RLT: (16384, 16384),  # RLT cfgs/run_cfg/teacher_rlt.yaml
}
DEFAULT_ROWS = {
    Method.INFERENCE: 1,
    Method.SCORE: 1,
    Method.SFT: 8,  # transformers TrainingArguments.per_device_train_batch_size
    Method.DPO: 8,
    Method.GRPO: 8,
    Method.RLT: 1,  # RLT cfgs/run_cfg/teacher_rlt.yaml
}
DEFAULT_GENERATIONS = {Method.GRPO: 8, Method.RLT: 64}


def resolve_sizes(
    flat: FlatRun, method: Method, stack: Stack, num_gpus: int, assumptions: list[str]
) -> tuple[Sizes, int | None]:
    """Sizes of a run and its gradient accumulation steps (None where nothing trains).

    Raises:
        UsageError: batch sizes that do not divide each other.
    """
    prompt, completion = _lengths(flat, method, assumptions)
    per_device = flat.per_device_batch_size
    if per_device is None:
        per_device = DEFAULT_ROWS[method]
        assumptions.append(f"per-device batch size {per_device}, the default of {method.value}")
    generations = flat.generations or DEFAULT_GENERATIONS.get(method, 1)
    if method.rolls_out and flat.generations is None:
        assumptions.append(f"{generations} completions a prompt, the default of {method.value}")
    rows = forward_rows(method, stack, per_device, generations)
    accumulation = _accumulation(flat, method, per_device, num_gpus)
    batch_size = flat.batch_size
    if batch_size is None and method.trains and accumulation is not None:
        batch_size = rows * num_gpus * accumulation
    return (
        Sizes(
            per_device_batch_size=rows,
            batch_size=batch_size,
            num_generations=generations,
            rollout_rows=generated_rows(method, stack, per_device, generations, accumulation or 1),
            max_prompt_length=prompt,
            max_completion_length=completion,
        ),
        accumulation,
    )


def forward_rows(method: Method, stack: Stack, per_device: int, generations: int) -> int:
    """Rows of one forward: TRL up to 0.14 counts prompts, each with all its completions."""
    return per_device * generations if method is Method.GRPO and stack.rows_are_prompts else per_device


def generated_rows(method: Method, stack: Stack, per_device: int, generations: int, accumulation: int) -> int:
    """Rows that one GPU generates in one call, 0 where nothing is generated."""
    if method is Method.RLT:
        return lcm(per_device, generations)
    if method is not Method.GRPO:
        return 0
    rows = forward_rows(method, stack, per_device, generations)
    return rows * accumulation if stack.generates_whole_batch else rows


def _lengths(flat: FlatRun, method: Method, assumptions: list[str]) -> tuple[int, int]:
    if flat.max_seq_length is not None:
        if method in (Method.GRPO, Method.RLT, Method.INFERENCE):
            raise UsageError(
                f"{method.value} takes prompt and completion lengths, not one sequence length",
                hint="use --max-prompt-length and --max-completion-length, or --context for both",
            )
        return flat.max_seq_length, 0
    default_prompt, default_completion = DEFAULT_LENGTHS[method]
    prompt = flat.max_prompt_length or flat.context
    completion = flat.max_completion_length or flat.context
    if prompt is None and completion is None:
        text = (
            f"{default_prompt} prompt and {default_completion} completion"
            if default_completion
            else f"{default_prompt}"
        )
        assumptions.append(f"{text} tokens a row, the default of {method.value}")
    prompt = default_prompt if prompt is None else prompt
    completion = default_completion if completion is None else completion
    if method in (Method.SFT, Method.DPO, Method.SCORE):
        if flat.context is not None and flat.max_prompt_length is None and flat.max_completion_length is None:
            return flat.context, 0
        return prompt + completion, 0
    return prompt, completion


def _accumulation(flat: FlatRun, method: Method, per_device: int, num_gpus: int) -> int | None:
    if not method.trains:
        return None
    given = flat.gradient_accumulation_steps
    if flat.batch_size is None:
        return given or 1
    step = per_device * num_gpus
    if flat.batch_size % step:
        raise UsageError(
            f"VP002: a batch of {flat.batch_size} completions is no multiple of {per_device} rows × {num_gpus} GPUs",
            hint=f"the trainer asserts it: use a multiple of {step}",
        )
    derived = flat.batch_size // step
    if given is not None and given != derived:
        raise UsageError(
            f"batch_size {flat.batch_size} means {derived} accumulation steps, not {given}", hint="give one of the two"
        )
    return derived
