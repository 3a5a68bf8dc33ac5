"""What `--estimate REPORT.json` says a run will take: the line that a log is held against."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vramplan.errors import UsageError

SCHEMA = "vramplan.report/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A report's peak on the device.

    Args:
        peak_bytes: `device_used_bytes` of the report's peak: the quantity that NVML shows.
        low_bytes: the band's lower end, None where the report has none.
        high_bytes: its upper end.
        how: estimate, simulate or measure.
        phase: the phase that has the peak.
    """

    peak_bytes: int
    low_bytes: int | None
    high_bytes: int | None
    how: str
    phase: str

    def __post_init__(self) -> None:
        """A peak is positive and lies in its band."""
        if self.peak_bytes <= 0:
            raise ValueError("a predicted peak is more than zero bytes")
        low, high = self.low_bytes, self.high_bytes
        if low is not None and high is not None and low > high:
            raise ValueError("the band's lower end is above its upper end")


def read_report(path: Path) -> dict[str, Any]:
    """A `vramplan.report/1` document, as `vramplan estimate --json` writes it.

    Raises:
        UsageError: no such file, no JSON, or another schema.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from None
    except ValueError:
        raise UsageError(f"{path} is not JSON", hint="write it with `vramplan estimate … --json > FILE`") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise UsageError(f"{path} is not a vramplan report", hint="write it with `vramplan estimate … --json > FILE`")
    return document


def prediction_of(document: Mapping[str, Any], name: str) -> Prediction:
    """The peak of a report that was read.

    Raises:
        UsageError: the report has no device peak.
    """
    try:
        peak = document["peak"]
        return Prediction(
            peak_bytes=int(peak["device_used_bytes"]),
            low_bytes=None if peak.get("low_bytes") is None else int(peak["low_bytes"]),
            high_bytes=None if peak.get("high_bytes") is None else int(peak["high_bytes"]),
            how=str(document.get("how", "estimate")),
            phase=str(peak["phase"]),
        )
    except (KeyError, TypeError, ValueError):
        raise UsageError(f"{name} has no peak on the device") from None


def read_prediction(path: Path) -> Prediction:
    """The peak of the report in a file.

    Raises:
        UsageError: the file is no report, or has no device peak.
    """
    return prediction_of(read_report(path), str(path))
