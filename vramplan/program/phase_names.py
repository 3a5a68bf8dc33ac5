"""Which marks of a program make a phase of a report, and where a run empties the allocator's cache."""

from __future__ import annotations

from vramplan.core.run import Method

_PHASES = {"forward": "train", "backward": "train"}
_RLT_EMPTIES = frozenset({"rollout", "score", "teacher_score", "reference", "backward"})
"""RLT empties the cache around generation, after each scored sample, and after the forward with its graph alive.

SakanaAI/RLT 86a3f5c trainers/grpo.py lines 911 to 999 and 1255, trainers/teacher_rewards.py lines 1140 to 1141.
"""


def phase_of(mark: str) -> str:
    """The phase that a mark belongs to: `train` for `forward.2`."""
    base = mark.split(".")[0]
    return _PHASES.get(base, base)


def empties_before(method: Method) -> frozenset[str]:
    """Marks, without their numbers, at which a run of this method calls `torch.cuda.empty_cache()`."""
    return _RLT_EMPTIES if method is Method.RLT else frozenset()
