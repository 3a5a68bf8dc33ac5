"""Names of settings that a version of TRL does not have: gone since, or not there yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vramplan.catalog.stacks import Version, parse_version
from vramplan.planner.check.finding import Problem
from vramplan.planner.check.rule import Rule
from vramplan.planner.check.subject import Subject
from vramplan.runfiles.runfile import Tool


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """One setting of one config.

    Args:
        gone: the oldest version read that no longer has it, or None.
        missing: the newest version read that does not have it yet, or None.
        instead: what to write.
    """

    gone: Version | None = None
    missing: Version | None = None
    instead: str


# Fields of GRPOConfig, DPOConfig and SFTConfig in the wheels of trl 0.14.0, 0.15.2, 0.26.2, 0.28.0, 0.29.0, 1.0.0 and
# 1.16.0; between two of them nothing is claimed.
_NAMES = {
    ("grpo", "max_prompt_length"): Name(gone=(0, 28), instead="filter the data by prompt length"),
    ("grpo", "vllm_max_model_len"): Name(gone=(0, 26, 2), instead="use vllm_max_model_length"),
    ("grpo", "vllm_max_model_length"): Name(missing=(0, 15, 2), instead="use vllm_max_model_len"),
    ("grpo", "vllm_device"): Name(gone=(0, 26, 2), instead="use vllm_mode: colocate or server"),
    ("dpo", "max_prompt_length"): Name(gone=(0, 29), instead="use max_length alone"),
    ("dpo", "max_completion_length"): Name(gone=(0, 29), instead="use max_length alone"),
    ("sft", "max_seq_length"): Name(gone=(0, 26, 2), instead="use max_length"),
    ("sft", "max_length"): Name(missing=(0, 15, 2), instead="use max_seq_length"),
}


def _other_version(subject: Subject) -> Iterator[Problem]:
    if subject.file.tool is not Tool.TRL:
        return
    version = subject.stack.versions["trl"]
    for (method, key), name in _NAMES.items():
        at = subject.file.get(key)
        if method != subject.flat.method or at is None:
            continue
        if name.gone is not None and parse_version(version) >= name.gone:
            when = "any more"
        elif name.missing is not None and parse_version(version) <= name.missing:
            when = "yet"
        else:
            continue
        yield Problem(
            at=at,
            message=f"trl {version} has no {key} {when}: its parser stops at settings that it does not know",
            hint=f"{name.instead}, or name the version with --stack trl=VERSION",
        )


NAME_RULES = (
    Rule(
        id="VP065",
        title="a setting that this version of TRL does not have",
        why="TRL renames and removes settings between minor versions, and its parser refuses what it does not know. "
        "The version is the one of --stack, else the one that is installed.",
        source="fields of trl 0.14.0 to 1.16.0 trainer/*_config.py; scripts/utils.py TrlParser raises on unknown "
        "settings",
        wrong="max_prompt_length: 512          # GRPO with trl 0.28 or later",
        right="max_completion_length: 512",
        check=_other_version,
    ),
)
