"""What an estimate says of a training run, from the model that is in memory: nothing is asked of the Hub."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vramplan.catalog import profile_dirs
from vramplan.errors import VramplanError
from vramplan.planner.answer import answer
from vramplan.planner.measured_record import prediction_of
from vramplan.records.record import Prediction
from vramplan.runfiles.flat import FlatRun, parse_flat


def predict(run: Mapping[str, Any], config: Mapping[str, Any], profile: str | None) -> tuple[Prediction | None, str]:
    """The estimate's phases and band, or None and why there is none.

    Args:
        run: the settings.
        config: the model's own.
        profile: of the card, or None.
    """
    with tempfile.TemporaryDirectory(prefix="vramplan-") as folder:
        file = Path(folder) / "config.json"
        file.write_text(json.dumps(dict(config), default=str), encoding="utf-8")
        own = FlatRun(model=str(file)) if profile is None else FlatRun(model=str(file), gpu=profile)
        try:
            flat = parse_flat(run, "").merged(own)
            return prediction_of(answer(flat, profile_dirs=profile_dirs())), ""
        except VramplanError as error:
            return None, error.message
