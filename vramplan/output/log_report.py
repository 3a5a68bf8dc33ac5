"""`vramplan.log-report/1`: what `vramplan report` found, as one document that every other rendering is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from vramplan.monitor.log_reader import ReadLog
from vramplan.monitor.log_stats import GpuStats

SCHEMA = "vramplan.log-report/1"


def log_report_document(
    logs: Sequence[tuple[ReadLog, Sequence[GpuStats]]], plans: Sequence[tuple[str, Mapping[str, Any]]] = ()
) -> dict[str, Any]:
    """The whole document; its keys never depend on the input.

    Args:
        logs: each log with its GPUs.
        plans: reports (`vramplan.report/1`) by file name: a prediction, or a measured record.
    """
    return {
        "schema": SCHEMA,
        "logs": [_log(log, len(gpus)) for log, gpus in logs],
        "gpus": [_gpu(log, stats) for log, gpus in logs for stats in gpus],
        "plans": [_plan(name, document) for name, document in plans],
    }


def _log(log: ReadLog, num_gpus: int) -> dict[str, Any]:
    return {
        "source": log.source,
        "format": log.format,
        "num_rows": len(log.rows),
        "num_gpus": num_gpus,
        "num_dropped_rows": log.num_dropped,
        "dropped_rows": [asdict(one) for one in log.dropped],
        "notes": list(log.notes),
    }


def _gpu(log: ReadLog, stats: GpuStats) -> dict[str, Any]:
    timeline = stats.timeline
    peak, usable = stats.peak_used_bytes, stats.usable_bytes
    predicted, low, high = stats.predicted
    has_times = timeline.start_time is not None
    return {
        "log": log.source,
        "gpu": timeline.gpu,
        "index": timeline.last_text("index"),
        "uuid": timeline.last_text("uuid"),
        "name": timeline.last_text("name"),
        "num_samples": len(stats.used),
        "samples": len(stats.used),
        "start_time": _time_text(timeline.start_time, timeline.has_zone),
        "duration_seconds": round(timeline.seconds[-1] - timeline.seconds[0], 3) if has_times else None,
        "interval_seconds": None if timeline.interval_seconds is None else round(timeline.interval_seconds, 3),
        "capacity_bytes": stats.capacity_bytes,
        "reserved_bytes": stats.reserved_bytes,
        "peak_used_bytes": peak,
        "peak_seconds": None if stats.peak_seconds is None or not has_times else round(stats.peak_seconds, 3),
        "peak_time": _peak_time(stats),
        "margin_bytes": None if peak is None or usable is None else usable - peak,
        "mean_used_bytes": stats.mean_used_bytes,
        "p95_used_bytes": stats.p95_used_bytes,
        "min_used_bytes": stats.min_used_bytes,
        "peak_watched_bytes": stats.peak_watched_bytes,
        "above": [
            {
                "threshold_bytes": one.threshold_bytes,
                "seconds": None if one.num_seconds is None else round(one.num_seconds, 3),
                "samples": one.num_samples,
            }
            for one in stats.above
        ],
        "growth_bytes_per_hour": stats.growth_bytes_per_hour,
        "looks_like_leak": stats.looks_like_leak,
        "phases": [
            {
                "kind": phase.kind,
                "start_seconds": round(phase.start_seconds, 3),
                "end_seconds": round(phase.end_seconds, 3),
                "mean_bytes": phase.mean_bytes,
                "peak_bytes": phase.peak_bytes,
                "samples": phase.num_samples,
            }
            for phase in stats.phases
        ],
        "num_gaps": len(stats.gaps),
        "gaps": [
            {"start_seconds": round(gap.start_seconds, 3), "seconds": round(gap.num_seconds, 3)} for gap in stats.gaps
        ],
        "processes": [
            {"pid": one.pid, "name": one.name, "peak_bytes": one.peak_bytes, "samples": one.num_samples}
            for one in stats.processes
        ],
        "predicted": {
            "peak_bytes": predicted,
            "low_bytes": low,
            "high_bytes": high,
            "error_ratio": round((predicted - peak) / peak, 4) if predicted is not None and peak else None,
        },
        "bad_samples": dict(stats.statuses),
        "dropped_rows": [asdict(one) for one in log.dropped],  # of its log: whose they were cannot be told
        "notes": list(timeline.notes),
    }


def _plan(name: str, document: Mapping[str, Any]) -> dict[str, Any]:
    peak = document.get("peak") or {}
    return {
        "source": name,
        "how": document.get("how"),
        "id": document.get("id"),
        "peak": {
            key: peak.get(key)
            for key in ("phase", "allocated_bytes", "reserved_bytes", "device_used_bytes", "low_bytes", "high_bytes")
        },
        "phases": [
            {"name": phase.get("name"), "components": dict(phase.get("components") or {})}
            for phase in document.get("phases") or []
        ],
        "budget_bytes": (document.get("budget") or {}).get("bytes"),
    }


def _time_text(seconds: float | None, has_zone: bool) -> str | None:
    """ISO 8601; without a zone where the log did not say one."""
    if seconds is None:
        return None
    moment = datetime.fromtimestamp(seconds, tz=timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z" if has_zone else "")


def _peak_time(stats: GpuStats) -> str | None:
    if stats.peak_seconds is None or stats.timeline.start_time is None:
        return None
    at = stats.timeline.seconds.index(stats.peak_seconds)
    return _time_text(stats.timeline.rows[at].time, stats.timeline.has_zone)
