"""GB, which is 10^9 bytes, and GiB, which is 2^30: a card's label and its driver use different ones."""

from __future__ import annotations

import re
from collections.abc import Iterator

from vramplan.planner.check.finding import Problem
from vramplan.planner.check.rule import Rule
from vramplan.planner.check.subject import Subject
from vramplan.runfiles.runfile import Written
from vramplan.units import GB, GiB

# A size in a setting: our own gpu_mem, accelerate's and transformers' max_memory, limits of other tools.
_SIZE_KEY = re.compile(r"(^|[._])(gpu_mem|gpu_memory|max_memory|vram|memory_limit)([._]|$)", re.IGNORECASE)
_GIB = re.compile(r"^\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>GiB|Gi)\s*$")
# A card's size in a name: rlt_85gb, run-96GB.
_NAMED = re.compile(r"(?<![0-9.])(?P<number>\d{2,3})(?P<unit>gi?b)(?![a-z])", re.IGNORECASE)
_NAME_KEYS = ("run_name", "wandb_run_name", "trainer_log_name", "output_dir", "wandb_project", "log_ctx_name")


def _sizes(subject: Subject) -> Iterator[Problem]:
    for key, one in subject.file.written.items():
        if not _SIZE_KEY.search(key) or not isinstance(one.value, str):
            continue
        match = _GIB.match(one.value)
        if match is not None:
            yield from _as_card(subject, one, match["number"])


def _as_card(subject: Subject, one: Written, number: str) -> Iterator[Problem]:
    """A number of GiB that is more than the card has, and as GB is what the card has."""
    asked = float(number)
    for label, total in subject.cards:
        gigabytes = total / GB
        if abs(asked - gigabytes) < 0.75 and asked * GiB > total:
            yield Problem(
                at=one,
                message=f"{number} GiB are {asked * GiB / GB:.1f} GB, and {label} has {gigabytes:.1f} GB "
                f"({total / GiB:.1f} GiB): the number is its GB",
                hint=f"write {number}GB",
                fixed=f'"{number}GB"',
            )
            return


def _names(subject: Subject) -> Iterator[Problem]:
    """A size in the run's names that the card given has in the other unit only."""
    if subject.gpu_bytes is None or subject.is_launcher:
        return
    for key in _NAME_KEYS:
        one = subject.file.get(key)
        match = _NAMED.search(one.value) if one is not None and isinstance(one.value, str) else None
        if one is None or match is None:
            continue
        number, is_gib = int(match["number"]), match["unit"].lower() == "gib"
        meant, other = (number * GiB, number * GB) if is_gib else (number * GB, number * GiB)
        total = subject.gpu_bytes
        # Labels round down: a card of 85.5 GB is called 85, so only a card that lies near the other unit is told.
        if abs(total - meant) / GB < 1.0 or abs(total - other) / GB >= 1.0:
            continue
        yield Problem(
            at=one,
            message=f"the run is named for {match[0]}, {meant / GB:.1f} GB, and the card has {total / GB:.1f} GB "
            f"({total / GiB:.1f} GiB): the name has its {'GB' if is_gib else 'GiB'}",
            hint=f"plan with {total / GB:.1f} GB",
        )
        return


def _mistaken(subject: Subject) -> Iterator[Problem]:
    yield from _sizes(subject)
    yield from _names(subject)


UNIT_RULES = (
    Rule(
        id="VP066",
        title="GB mistaken for GiB",
        why="A GiB is 7 % more than a GB. The card that is sold as 80 GB has 85.5 GB, 79.6 GiB: a limit of 85 GiB is "
        "more than it has, and torch's total_memory / 1e9 is not nvidia-smi's figure.",
        source="NVML memory.total of an H100 80GB: 81,559 MiB; research/training-memory.md §1.2",
        wrong='gpu_mem = "85GiB"           # an H100 has 85.5 GB',
        right='gpu_mem = "85GB"',
        check=_mistaken,
    ),
)
