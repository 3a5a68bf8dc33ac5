"""The reference model: loaded where it is not needed, synchronised where it cannot be."""

from __future__ import annotations

from collections.abc import Iterator

from vramplan.catalog.stacks import parse_version
from vramplan.planner.check.finding import Problem, Severity
from vramplan.planner.check.rule import Rule
from vramplan.planner.check.subject import Subject


def _zero_beta(subject: Subject) -> Iterator[Problem]:
    if subject.flat.beta != 0 or not subject.rolls_out or subject.is_lora:
        return
    if not subject.is_rlt and subject.stack.reference_skipped_at_zero_beta:
        return
    who = "RLT" if subject.is_rlt else f"trl {subject.stack.versions['trl']}"
    at = subject.place_of("beta")
    yield Problem(
        at=at,
        key="" if at else "beta",
        message=f"beta is 0, and {who} loads and runs the reference all the same",
        hint="train adapters: the reference is then the policy without them"
        + ("" if subject.is_rlt else "; or trl 0.16.0 and later, which skips it"),
    )


def _sync(subject: Subject) -> Iterator[Problem]:
    at = subject.is_true("sync_ref_model")
    if at is None or not subject.rolls_out:
        return
    skipped = not subject.is_rlt and subject.flat.beta == 0 and subject.stack.reference_skipped_at_zero_beta
    if subject.is_lora:
        why = "there is no reference of its own under LoRA, only the policy without its adapters"
    elif skipped:
        why = "beta is 0, so no reference is made that could be synchronised"
    else:
        return
    refuses = not subject.is_rlt and parse_version(subject.stack.versions["trl"]) >= (1, 0)
    refusal = ": TRL refuses it" if refuses else ""
    yield Problem(
        at=at, message=f"sync_ref_model has nothing to write to: {why}{refusal}", hint="use false", fixed="false"
    )


REFERENCE_RULES = (
    Rule(
        id="VP011",
        title="beta 0 that still loads a reference",
        why="A KL term of weight zero needs no reference, but RLT always loads and runs one, and TRL did up to 0.15: a "
        "whole model more.",
        source="RLT trainers/grpo.py 218-226, 845-855; TRL pull request 2806 (0.16.0)",
        wrong="beta: 0.0                 # RLT, or trl 0.15",
        right="beta: 0.04",
        severity=Severity.WARNING,
        check=_zero_beta,
    ),
    Rule(
        id="VP050",
        title="a reference that cannot be synchronised",
        why="SyncRefModelCallback mixes the policy into a separate reference; with adapters or without a KL term "
        "there is none.",
        source="TRL 1.16.0 grpo_trainer.py 1190-1206",
        wrong="beta: 0.0\nsync_ref_model: true",
        right="beta: 0.04\nsync_ref_model: true",
        check=_sync,
    ),
)
