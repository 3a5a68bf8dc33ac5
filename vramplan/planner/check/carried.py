"""Rules whose code is the estimate's own: its warnings on this run, at the place of the setting they concern.

Left out are the warnings about the estimate rather than the run: VP017 (bytes outside its totals), VP024 (sharding is
modelled), VP025 (parts of the model that are not counted) and VP026 (versions that were not read).
"""

from __future__ import annotations

from collections.abc import Iterator

from vramplan.core.report import Finding
from vramplan.planner.check.carried_text import CARRIED_RULES
from vramplan.planner.check.finding import CheckFinding, Needs, Problem
from vramplan.planner.check.subject import Subject
from vramplan.planner.idle import OF_ADAPTERS, OF_ENGINE, OF_ROLLOUT, OF_TRAINING
from vramplan.runfiles.runfile import Tool

# The settings that a warning is about, the one to look at first.
_KEYS = {
    "VP008": ("dtype",),
    "VP009": ("mixed_precision",),
    "VP010": ("dtype", "mixed_precision"),
    "VP013": ("quantization",),
    "VP014": ("quantization",),
    "VP015": ("quantization", "gradient_checkpointing"),
    "VP016": ("kbit_fp32_upcast",),
    "VP019": ("per_device_batch_size",),
    "VP020": ("max_completion_length", "max_seq_length", "context"),
    "VP021": ("attn_implementation",),
    "VP022": ("attn_implementation",),
    "VP023": ("reference",),
    "VP028": ("rollout", "vllm_sleep"),
    "VP029": ("vllm_gpu_memory_utilization",),
    "VP030": ("vllm_gpu_memory_utilization",),
    "VP031": ("dtype", "mixed_precision"),
    "VP032": ("attn_implementation",),
    "VP033": ("reference",),
}
_IDLE = (*OF_TRAINING, *OF_ADAPTERS, *OF_ROLLOUT, *OF_ENGINE, "beta", "offload", "sharding", "double_quant")


def carried(subject: Subject) -> Iterator[CheckFinding]:
    """The estimate's warnings that are about the run's settings."""
    if subject.estimated is None:
        return
    rules = {rule.id: rule for rule in CARRIED_RULES}
    for warning in subject.estimated.report.warnings:
        rule = rules.get(warning.rule)
        if rule is None or (rule.needs is Needs.CARD and subject.gpu is None):
            continue
        keys = _KEYS.get(warning.rule, ())
        if warning.rule == "VP027":
            if subject.file.tool is not Tool.OWN:
                continue  # other tools' files name every setting, used or not
            keys = tuple(key for key in _IDLE if key in warning.message)
        yield rule.finding(subject, _problem(subject, warning, keys))


def _problem(subject: Subject, warning: Finding, keys: tuple[str, ...]) -> Problem:
    at = next((place for place in map(subject.place_of, keys) if place is not None), None)
    return Problem(
        at=at, key="" if at is not None else (keys[0] if keys else "run"), message=warning.message, hint=warning.hint
    )
