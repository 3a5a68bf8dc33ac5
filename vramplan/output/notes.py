"""What the sizes of a run do, and do not do, to its peak: the third table's sentences."""

from __future__ import annotations

from vramplan.core.report import MemoryReport

# TRL and RLT: proof of each sentence in the trainers' own arithmetic, research notes "training-memory" §4.
_ROLLOUT_METHODS = ("grpo", "rlt")
_TRAINING_METHODS = (*_ROLLOUT_METHODS, "sft", "dpo")


def settings_notes(report: MemoryReport) -> tuple[str, ...]:
    """Sentences on batch, generations, accumulation and context, for the run's own method and numbers."""
    inputs = report.inputs
    method = inputs.get("method")
    if method in _ROLLOUT_METHODS:
        return (_batch_note(report), _context_note(report), *_rollout_notes(report))
    if method in _TRAINING_METHODS:
        return (_accumulation_note(report), _context_note(report))
    return (_inference_note(report),)


def _rows(report: MemoryReport) -> str:
    rows = report.inputs.get("per_device_batch_size")
    return f"per_device_batch_size rows ({rows})" if rows is not None else "per_device_batch_size rows"


def _value(report: MemoryReport, key: str) -> str:
    value = report.inputs.get(key)
    return key if value is None else f"{key} ({value})"


def _batch_note(report: MemoryReport) -> str:
    return (
        f"{_value(report, 'batch_size')} and {_value(report, 'generations')} do not move the training peak: "
        f"one forward and backward holds {_rows(report)}, and the rest of the batch follows in turn by gradient "
        f"accumulation."
    )


def _accumulation_note(report: MemoryReport) -> str:
    return (
        f"The global batch does not move the training peak: one forward and backward holds {_rows(report)}, "
        f"and more gradient accumulation only repeats it (from 2 steps on, gradients also stay alive through the "
        f"next forward)."
    )


def _lengths(report: MemoryReport) -> str:
    inputs = report.inputs
    prompt, completion = inputs.get("max_prompt_length"), inputs.get("max_completion_length")
    if isinstance(prompt, int) and isinstance(completion, int) and completion:
        return f"{prompt} + {completion} = {prompt + completion} tokens per row"
    total = inputs.get("max_seq_length") or prompt or inputs.get("context")
    return f"{total} tokens per row" if total else "the tokens of a row"


def _context_note(report: MemoryReport) -> str:
    attention = (
        "attention scores grow with its square"
        if report.inputs.get("attn_implementation") == "eager"
        else "without eager attention nothing grows with its square"
    )
    return (
        f"Context does: activations, checkpoints and logits grow in proportion to rows × length "
        f"(here {_lengths(report)}); {attention}."
    )


def _rollout_notes(report: MemoryReport) -> tuple[str, ...]:
    backend = report.inputs.get("rollout")
    if backend == "vllm-colocate":
        share = report.inputs.get("vllm_gpu_memory_utilization")
        return (
            f"In the rollout vLLM takes vllm_gpu_memory_utilization{'' if share is None else f' ({share:g})'} of the "
            f"whole card however many completions there are: more of them wait for KV cache instead.",
        )
    if backend == "vllm-server":
        return ("The rollout is on other cards: generations cost nothing here.",)
    return ("In the rollout the KV cache grows with the rows that are generated at once, and with their length.",)


def _inference_note(report: MemoryReport) -> str:
    return (
        f"The weights stay the same; the KV cache and the prefill's activations grow with {_rows(report)} × length "
        f"(here {_lengths(report)})."
    )
