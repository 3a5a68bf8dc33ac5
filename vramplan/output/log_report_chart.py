"""The numbers of a log report's charts, as the page's script and the picture take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vramplan.output.log_report_series import Series
from vramplan.output.log_report_text import short_name
from vramplan.units import GB, GiB


def chart_data(document: Mapping[str, Any], series: Sequence[Series], units: str) -> dict[str, Any]:
    """What the page's script draws."""
    has_times = all(one.has_times for one in series)
    longest = max((one.seconds[-1] for one in series if one.seconds), default=0.0)
    divisor, title = (1.0, "samples") if not has_times else time_unit(longest)
    shaded = shaded_gpu(document)
    return {
        "unit": units,
        "digits": 0 if units == "bytes" else 2,
        "divisor": {"GB": GB, "GiB": GiB, "bytes": 1}[units],
        "has_times": has_times,
        "x_divisor": divisor,
        "x_title": title,
        "curves": [{"name": one.name, "seconds": one.seconds, "used": one.used} for one in series if one.used],
        "shading": [] if shaded is None else _shading(shaded),
        "lines": _lines(document),
        "plans": [
            {
                "name": short_name(plan["source"]),
                "phases": [
                    {
                        "name": phase["name"],
                        "components": {name: phase["components"].get(name, 0) for name in component_names(plan)},
                    }
                    for phase in plan["phases"]
                ],
                "totals": [sum(phase["components"].values()) for phase in plan["phases"]],
            }
            for plan in document["plans"]
        ],
    }


def time_unit(seconds: float) -> tuple[float, str]:
    """Seconds in one unit of the time axis, and its title."""
    if seconds < 300:
        return 1.0, "seconds since the start"
    return (60.0, "minutes since the start") if seconds < 3 * 3600 else (3600.0, "hours since the start")


def _shading(gpu: Mapping[str, Any]) -> list[dict[str, float]]:
    """Each phase up to the next one's start, so that shades have no holes."""
    phases = gpu["phases"]
    ends = [phase["start_seconds"] for phase in phases[1:]] + [phases[-1]["end_seconds"]]
    return [{"start": phase["start_seconds"], "end": end} for phase, end in zip(phases, ends, strict=True)]


def _lines(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Predicted peaks and capacities, each different one once."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for gpu in document["gpus"]:
        predicted = gpu["predicted"]
        if predicted["peak_bytes"] is not None:
            key = ("predicted", predicted["peak_bytes"])
            found[key] = {
                "kind": "predicted",
                "name": "predicted peak",
                "value": predicted["peak_bytes"],
                "low": predicted["low_bytes"],
                "high": predicted["high_bytes"],
            }
        if gpu["capacity_bytes"] is not None:
            key = ("capacity", gpu["capacity_bytes"])
            found[key] = {
                "kind": "capacity",
                "name": "capacity",
                "value": gpu["capacity_bytes"],
                "low": None,
                "high": None,
            }
    if not document["gpus"] and len(document["plans"]) == 1:
        (plan,) = document["plans"]
        peak = plan["peak"]
        if peak["device_used_bytes"] is not None:
            ends = {"low": peak["low_bytes"], "high": peak["high_bytes"]}
            line = {"kind": "predicted", "name": "peak on the device", "value": peak["device_used_bytes"], **ends}
            found["predicted", peak["device_used_bytes"]] = line
        if plan["budget_bytes"] is not None:
            line = {"kind": "capacity", "name": "budget", "value": plan["budget_bytes"], "low": None, "high": None}
            found["capacity", plan["budget_bytes"]] = line
    return list(found.values())


def shaded_gpu(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The GPU whose phases are shaded: the one with the highest peak."""
    known = [gpu for gpu in document["gpus"] if len(gpu["phases"]) > 1]
    return max(known, key=lambda gpu: gpu["peak_used_bytes"] or 0, default=None)


def component_names(plan: Mapping[str, Any]) -> list[str]:
    """A plan's components that take anything in any phase, in the plan's order."""
    names = dict.fromkeys(name for phase in plan["phases"] for name in phase["components"])
    return [name for name in names if any(phase["components"].get(name) for phase in plan["phases"])]
