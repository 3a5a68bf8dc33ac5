"""What the versions of the libraries do unasked; with the model's bytes where the model is known."""

from __future__ import annotations

from collections.abc import Iterator

from vramplan.planner.check.finding import Problem, Severity
from vramplan.planner.check.rule import Rule
from vramplan.planner.check.subject import Subject


def _of_estimate(subject: Subject, rule: str) -> Iterator[tuple[str, str]]:
    """Messages and hints of the estimate's own rule of this id."""
    if subject.estimated is not None:
        for one in subject.estimated.report.warnings:
            if one.rule == rule:
                yield one.message, one.hint


def _fp32_weights(subject: Subject) -> Iterator[Problem]:
    at = subject.place_of("dtype") or subject.place_of("model") or subject.place_of("mixed_precision")
    key = "" if at else "model_init_kwargs"
    if subject.estimated is not None:
        for message, _ in _of_estimate(subject, "VP010"):
            yield Problem(at=at, key=key, message=message, hint=_how(subject))
        return
    if _loads_fp32(subject):
        yield Problem(
            at=at,
            key=key,
            message="fp32 weights under bf16 autocast: 4 bytes a parameter, and a 16-bit copy in every forward",
            hint=_how(subject),
        )


def _how(subject: Subject) -> str:
    name = "dtype" if subject.file.tool.value == "vramplan" else "model_init_kwargs: {torch_dtype: bfloat16}"
    return f"set {name} if 16-bit weights were meant; DeepSpeed does it by itself"


def _loads_fp32(subject: Subject) -> bool:
    """Whether full training under bf16 autocast loads fp32, as far as it can be told without the model."""
    flat, stack = subject.flat, subject.stack
    if flat.model is None and flat.teacher is None:
        return False
    if not subject.is_full or subject.is_zero or flat.method not in ("grpo", "dpo", "rlt"):
        return False
    if (flat.quantization or "none") != "none" or (flat.teacher_quantization or "none") != "none":
        return False
    casts = subject.is_rlt or stack.trainer_mixed_bf16
    if (flat.mixed_precision or ("bf16" if casts else "no")) != "bf16":
        return False
    how = "unset" if subject.is_rlt else stack.trainer_load_dtype
    default = stack.default_dtype if how == "unset" else how
    return flat.dtype == "fp32" or (flat.dtype is None and default == "fp32")


def _full_logits(subject: Subject) -> Iterator[Problem]:
    at = subject.place_of("per_device_batch_size")
    key = "" if at else "per_device_train_batch_size"
    if subject.estimated is not None:
        for message, hint in _of_estimate(subject, "VP019"):
            yield Problem(at=at, key=key, message=message, hint=hint)
    elif subject.flat.method in ("grpo", "dpo") and not subject.is_rlt and not subject.stack.fused_lm_head:
        yield Problem(
            at=at,
            key=key,
            message=f"trl {subject.stack.versions['trl']} makes full logits in fp32, rows × tokens × vocabulary, and "
            "keeps several copies through the backward",
            hint="trl 1.15.0 and later computes log-probabilities in tiles and never makes them",
        )


VERSION_RULES = (
    Rule(
        id="VP010",
        title="fp32 weights under autocast where 16 bits were meant",
        why="bf16: true is autocast. The weights load in the library's default, fp32 for these versions: 4 bytes a "
        "parameter, 4 of gradients, 8 of states, and a 16-bit copy of every weight in each forward.",
        source="torch autocast_mode.cpp: fp32 leaves that need gradients are cast once and kept; RLT trainers/grpo.py "
        "183-203; TRL pull request 4778",
        wrong="bf16: true",
        right="bf16: true\nmodel_init_kwargs:\n  torch_dtype: bfloat16",
        severity=Severity.WARNING,
        check=_fp32_weights,
    ),
    Rule(
        id="VP019",
        title="full logits, held for the backward",
        why="Up to TRL 1.14 the log-probabilities come from logits of rows × completion × vocabulary in fp32, with "
        "four such tensors at the peak; a small model with a large vocabulary is mostly logits.",
        source="TRL pull requests 7077 and 7243; issue 3678 (H100: 858 MB for 310 MB of logits)",
        wrong="# trl 1.14",
        right="# trl 1.15",
        severity=Severity.WARNING,
        check=_full_logits,
    ),
)
