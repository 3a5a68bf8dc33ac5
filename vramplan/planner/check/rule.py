"""Rule: what is looked for, why it matters, and where that is known from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vramplan.planner.check.finding import CheckFinding, Needs, Problem, Severity
from vramplan.planner.check.subject import Subject

Check = Callable[[Subject], Iterator[Problem]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of `vramplan check`.

    Args:
        id: `VP` and three digits; an estimate's warning and a check's finding of the same rule have the same id.
        title: what it finds, in a few words.
        why: what happens if nothing is done, one to three sentences.
        source: where that is known from.
        wrong: an example that has the problem, as written in a file.
        right: the same without it.
        severity: how bad it is.
        needs: what it has to know beside the files.
        check: the code; None where the estimate's own rule of this id speaks (`carried.py`).
    """

    id: str
    title: str
    why: str
    source: str
    wrong: str
    right: str
    severity: Severity = Severity.ERROR
    needs: Needs = Needs.FILES
    check: Check | None = None

    def find(self, subject: Subject) -> Iterator[CheckFinding]:
        """What the rule has to say of this run."""
        if self.check is None:
            return
        for problem in self.check(subject):
            yield self.finding(subject, problem)

    def finding(self, subject: Subject, problem: Problem) -> CheckFinding:
        """The problem with this rule's id and source, at its place."""
        at = problem.at
        return CheckFinding(
            rule=self.id,
            severity=problem.severity or self.severity,
            key=problem.key or (at.key if at is not None else ""),
            file=subject.file.path if at is None else at.place.file,
            line=None if at is None else at.place.line,
            message=problem.message,
            hint=problem.hint,
            source=self.source,
            fixed=problem.fixed,
        )
