"""How far a measured run may lie from the estimate.

The ratios are quantiles of measured / predicted over `../shared/truth/runs.jsonl` (227 rows, 2026-11-21; `vramplan
accuracy` prints the errors): 95 % of the training rows lie within -5 % and +10.5 %, every inference row within -2 % and
+3 %, here a little wider because they are few. The top is wider than the bottom because what is left out (library
workspaces, fragmentation that a longer run adds) only ever adds. The profile of a card may have a band of its own, as
`vramplan calibrate` writes it.
"""

from __future__ import annotations

from vramplan.formula.setting import Setting

TRAINING = (0.05, 0.105)
INFERENCE = (0.03, 0.05)


def band_of(setting: Setting, device_used_bytes: int) -> tuple[int, int]:
    """Lowest and highest device bytes that measured runs of this kind make likely."""
    gpu = setting.gpu
    own, shipped = (gpu.inference_band, INFERENCE) if setting.run.training is None else (gpu.training_band, TRAINING)
    below, above = own or shipped
    return int(device_used_bytes * (1 - below)), int(device_used_bytes * (1 + above))
