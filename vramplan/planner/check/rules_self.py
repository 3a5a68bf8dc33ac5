"""Refusals of the estimate that no other rule has named: settings that contradict each other."""

from __future__ import annotations

from collections.abc import Iterator

from vramplan.planner.check.finding import Problem
from vramplan.planner.check.rule import Rule
from vramplan.planner.check.subject import Subject

# `resolve` and `sizes` put the ids of their own refusals before the sentence; those have rules of their own here.
_NAMED_ELSEWHERE = ("VP001", "VP002")


def _contradicts(subject: Subject) -> Iterator[Problem]:
    if subject.refused is None or subject.refused[0].startswith(_NAMED_ELSEWHERE):
        return
    message, hint = subject.refused
    # RLT looks at train_batch_size only where the steps are missing: VP043 says so.
    if message.startswith("batch_size") and subject.is_rlt:
        return
    key = next((one for one in subject.flat.given() if one in message), "")
    at = subject.place_of(key) if key else None
    yield Problem(at=at, key="" if at else key or "run", message=message, hint=hint or "give one of the two")


SELF_RULES = (
    Rule(
        id="VP068",
        title="settings that contradict each other",
        why="No trainer can do what the settings together ask for, so nothing can be said of its memory.",
        source="vramplan/planner/resolve.py and sizes.py: what makes a complete run",
        wrong='method = "sft"\nstudent = "Qwen/Qwen2.5-0.5B"',
        right='method = "sft"',
        check=_contradicts,
    ),
)
