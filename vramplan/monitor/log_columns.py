"""What a column of somebody's GPU log means, from its name, and what a cell of it says, from its text.

Names differ from logger to logger: `memory.used [MiB]`, `memory.used[MiB]`, `vram_used_mb`, `memory_used(MB)`. A size
without a unit is in MiB, and so is one in "MB": both come from nvidia-smi's or NVML's mebibytes.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from datetime import datetime, timezone

from vramplan.units import UNITS, MiB

TIME = "time"
SIZES = ("used", "free", "reserved", "total", "watched", "process_used", "predicted", "predicted_low", "predicted_high")
NUMBERS = ("elapsed", "tick", "gpu_ratio", "temperature", "power", "pid")
TEXTS = ("index", "uuid", "bus", "name", "process_name", "status", "processes")
IGNORED = "ignored"

_MEANINGS = {
    TIME: {"timestamp", "time", "date", "datetime", "date_time", "time_utc", "ts"},
    "elapsed": {"elapsed_seconds", "elapsed", "elapsed_s"},
    "tick": {"tick"},
    "index": {"index", "gpu_index", "gpu", "gpu_id", "device", "device_id", "gpu_number"},
    "uuid": {"uuid", "gpu_uuid"},
    "bus": {"pci_bus_id", "gpu_bus_id", "bus_id"},
    "name": {"name", "gpu_name", "device_name"},
    "used": {"memory_used", "mem_used", "vram_used", "used", "gpu_memory_used", "gpu_mem_used", "used_memory",
             "memory_usage", "vram", "gpu_memory"},
    "free": {"memory_free", "mem_free", "vram_free", "free", "gpu_memory_free"},
    "total": {"memory_total", "mem_total", "vram_total", "total", "gpu_memory_total"},
    "reserved": {"memory_reserved", "reserved"},
    "watched": {"watched"},
    "process_used": {"used_gpu_memory"},
    "pid": {"pid"},
    "process_name": {"process_name"},
    "processes": {"process"},
    "predicted": {"predicted_peak"},
    "predicted_low": {"predicted_low"},
    "predicted_high": {"predicted_high"},
    "gpu_ratio": {"utilization_gpu", "gpu_util", "gpu_utilization", "util", "utilization", "gpu_usage"},
    "temperature": {"temperature_gpu", "temperature", "temp", "gpu_temp", "gpu_temperature"},
    "power": {"power_draw", "power", "power_usage"},
    "status": {"status"},
}  # fmt: skip
_BY_NAME = {name: meaning for meaning, names in _MEANINGS.items() for name in names}
_BRACKETS = re.compile(r"^(?P<name>[^\[(]*?)\s*[\[(]\s*(?P<unit>[^\])]*?)\s*[\])]\s*$")
_SUFFIXES = {
    "bytes": "B", "mib": "MiB", "mb": "MB", "gib": "GiB", "gb": "GB", "kib": "KiB", "kb": "KB",
    "percent": "%", "pct": "%", "ratio": "ratio", "celsius": "C", "watts": "W", "w": "W", "c": "C",
}  # fmt: skip
_NUMBER = re.compile(r"^(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*(?P<unit>[A-Za-z%°]*)$")
_ABSENT = re.compile(r"^(|-|n/?a|nan|none|null|err!|\[.*\])$", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What one column holds; `unit` is what its header says, empty where it says none."""

    meaning: str
    unit: str = ""


class BadCellError(ValueError):
    """A cell that is neither a value nor a known way to say that there is none."""


def classify(name: str) -> Column:
    """The meaning of a header's cell; `ignored` where it is nothing that this program reads."""
    text = name.strip().strip('"').strip()
    bracketed = _BRACKETS.match(text)
    unit = ""
    if bracketed:
        text, unit = bracketed["name"], bracketed["unit"]
    key = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    if key in _BY_NAME:
        return Column(meaning=_BY_NAME[key], unit=unit)
    stem, _, suffix = key.rpartition("_")
    if suffix in _SUFFIXES and stem in _BY_NAME:
        return Column(meaning=_BY_NAME[stem], unit=unit or _SUFFIXES[suffix])
    return Column(meaning=IGNORED)


def is_absent(cell: str) -> bool:
    """`[N/A]`, `N/A`, `[GPU is lost]`, an empty cell: no value, and no damage either."""
    return not cell[:1].isdigit() and _ABSENT.match(cell) is not None


def number(cell: str) -> tuple[float, str]:
    """A cell's number and the unit beside it.

    Raises:
        BadCellError: it has none.
    """
    match = _NUMBER.match(cell)
    if match is None:
        raise BadCellError(cell)
    return float(match["number"]), match["unit"]


def size_bytes(cell: str, unit: str) -> int:
    """`18141 MiB`, or `18141` under a header that says MiB, MB or nothing.

    Raises:
        BadCellError: no size.
    """
    if cell.endswith(" MiB") and cell[:-4].isdecimal():  # nearly every cell of nearly every log
        return int(cell[:-4]) * MiB
    value, own = number(cell)
    spelled = (own or unit or "MiB").upper()
    if value < 0 or spelled not in UNITS:
        raise BadCellError(cell)
    if spelled in ("MB", "M"):
        return round(value * MiB)
    return round(value * UNITS[spelled])


def epoch_seconds(cell: str) -> tuple[float, bool]:
    """Seconds since 1970 and whether the cell said its zone; a local time counts as if it were UTC.

    Raises:
        BadCellError: no time that is known here.
    """
    if len(cell) == 23 and cell[4] in "/-" and cell[19] == ".":  # nvidia-smi's own
        with contextlib.suppress(ValueError):
            return datetime.fromisoformat(cell.replace("/", "-") + "+00:00").timestamp(), False
    text = cell.strip()
    if re.fullmatch(r"\d{9,11}(\.\d+)?", text):
        return float(text), True
    if re.fullmatch(r"\d{12,14}", text):
        return int(text) / 1000, True
    text = text.replace("/", "-", 2)
    if text.endswith("Z"):
        text = text[:-1] + "+00:00"
    # Python 3.10's fromisoformat takes three or six digits after the point, and nothing else.
    text = re.sub(r"\.(\d+)", lambda match: "." + match[1][:6].ljust(6, "0"), text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadCellError(cell) from None
    if len(cell) < 12:  # a day alone is no sample's time
        raise BadCellError(cell)
    if moment.tzinfo is None:
        return moment.replace(tzinfo=timezone.utc).timestamp(), False
    return moment.timestamp(), True
