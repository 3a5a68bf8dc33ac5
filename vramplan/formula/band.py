"""How far a measured run may lie from the estimate."""

from __future__ import annotations

from vramplan.core.report import Phase
from vramplan.formula.setting import Setting

TRAINING_LOW_RATIO, TRAINING_HIGH_RATIO = 0.07, 0.07
INFERENCE_LOW_RATIO, INFERENCE_HIGH_RATIO = 0.05, 0.05


def band_of(setting: Setting, phase: Phase) -> tuple[int, int]:
    """Lowest and highest device bytes that measured runs of this kind make likely."""
    trains = setting.run.training is not None
    low = TRAINING_LOW_RATIO if trains else INFERENCE_LOW_RATIO
    high = TRAINING_HIGH_RATIO if trains else INFERENCE_HIGH_RATIO
    used = phase.device_used_bytes
    return int(used * (1 - low)), int(used * (1 + high))
