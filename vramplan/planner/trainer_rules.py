"""What trainers assert about batches before they start: a run that breaks one of these stops at once."""

from __future__ import annotations

from vramplan.core.run import Method
from vramplan.core.stack import Stack
from vramplan.planner.sizes import generated_rows

MIN_GENERATIONS = 2
"""TRL grpo_config.py: "GRPO requires at least 2 generations per prompt to calculate the advantages"."""


def engine_refusal(method: Method, stack: Stack, *, sleeps: bool) -> tuple[str, str] | None:
    """Why the trainer of a stack does not run an engine beside the training so, and what would; None where it does.

    Args:
        method: what is done.
        stack: the versions.
        sleeps: whether it is to sleep outside the rollout.
    """
    if method is Method.RLT:
        # SakanaAI/RLT 86a3f5c trainers/grpo.py 504-515
        return ("RLT's own vLLM never sleeps", "leave --vllm-sleep out") if sleeps else None
    trl = f"VP028: trl {stack.versions['trl']}"
    if not stack.vllm_colocate_available:
        return f"{trl} has no colocated vLLM", "--stack trl=0.18.0 or newer has; or --rollout hf, or vllm-server"
    if sleeps and not stack.vllm_sleep_available:
        return f"{trl} cannot put vLLM to sleep", "--stack trl=0.23.0 or newer can; or leave --vllm-sleep out"
    return None


def refusal(
    method: Method, stack: Stack, *, per_device: int, generations: int, accumulation: int, num_gpus: int
) -> str | None:
    """What the trainer of a stack asserts that these settings break, or None where it takes them.

    Args:
        method: what is done; only those that roll out have rules.
        stack: the versions.
        per_device: rows of one forward (prompts for TRL up to 0.14).
        generations: completions a prompt.
        accumulation: micro-batches an update.
        num_gpus: how many train.
    """
    if not method.rolls_out:
        return None
    if generations < MIN_GENERATIONS:
        return f"{generations} completion a prompt has no group to compare with"
    if method is Method.RLT:
        steps = generated_rows(method, stack, per_device, generations, accumulation) // per_device
        if accumulation % steps:
            return (
                f"{accumulation} accumulation steps are no multiple of {steps} generation_aggregation_steps "
                "(RLT trainers/grpo.py 309-311)"
            )
        return None
    if stack.rows_are_prompts:
        return None
    rows = per_device * num_gpus * (accumulation if stack.generates_whole_batch else 1)
    if rows % generations:
        what = "generation batch" if stack.generates_whole_batch else "global batch"
        return f"a {what} of {rows} rows is no multiple of {generations} completions (TRL grpo_config.py)"
    return None
