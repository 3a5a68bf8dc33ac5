"""From what a measuring process told, and what was seen of its card, to a record."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from vramplan import __version__
from vramplan.core.report import MemoryReport
from vramplan.planner.device_eye import Card, Eye
from vramplan.program.phase_names import phase_of
from vramplan.program.supervise import Finished
from vramplan.records.record import (
    PredictedPhase,
    Prediction,
    RecordGpu,
    RecordMoment,
    RecordOutOfMemory,
    RecordPhase,
)

_LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "trl", "accelerate", "vllm")
_PEAKS = (
    "allocated_bytes",
    "reserved_bytes",
    "device_used_bytes",
    "end_allocated_bytes",
    "end_reserved_bytes",
    "end_device_used_bytes",
)


def phases_of(finished: Finished, eye: Eye | None) -> tuple[RecordPhase, ...]:
    """The finished phases, each at its highest repetition."""
    merged: dict[str, RecordPhase] = {}
    for event in finished.all("phase"):
        name = phase_of(event["phase"])
        one = RecordPhase(
            name=name,
            allocated_bytes=event["allocated_bytes"],
            reserved_bytes=event["reserved_bytes"],
            device_used_bytes=None if eye is None else eye.highest(event["begin"], event["settled"]),
            free_bytes=event["free_bytes"],
            end_allocated_bytes=event["end_allocated_bytes"],
            end_reserved_bytes=event["end_reserved_bytes"],
            end_device_used_bytes=None if eye is None else eye.last(event["end"], event["settled"]),
            num_alloc_retries=event["num_alloc_retries"],
            num_ooms=event["num_ooms"],
            seconds=round(event["end"] - event["begin"], 6),
        )
        merged[name] = one if name not in merged else _merged(merged[name], one)
    return tuple(merged.values())


def _merged(first: RecordPhase, second: RecordPhase) -> RecordPhase:
    """Two stretches of one phase: peaks are the higher ones, counts and times their sums, `free` the least."""
    changes: dict[str, Any] = {name: _most(getattr(first, name), getattr(second, name)) for name in _PEAKS}
    frees = [one.free_bytes for one in (first, second) if one.free_bytes is not None]
    return replace(
        first,
        **changes,
        free_bytes=min(frees, default=None),
        num_alloc_retries=(first.num_alloc_retries or 0) + (second.num_alloc_retries or 0),
        num_ooms=(first.num_ooms or 0) + (second.num_ooms or 0),
        seconds=round((first.seconds or 0.0) + (second.seconds or 0.0), 6),
        num_repeats=first.num_repeats + second.num_repeats,
    )


def _most(first: int | None, second: int | None) -> int | None:
    return max((value for value in (first, second) if value is not None), default=None)


def gpu_of(
    finished: Finished, card: Card | None, eye: Eye | None, *, baseline_used_bytes: int | None, profile: str | None
) -> RecordGpu:
    """The card, as the driver and torch saw it."""
    event = finished.last("context")
    seen: Mapping[str, Any] = {} if event is None else event["gpu"]
    after = None if eye is None or event is None else eye.last(event["time"], event["settled"])
    has_both = after is not None and baseline_used_bytes is not None
    total_bytes = seen.get("total_bytes") if card is None else card.total_bytes
    return RecordGpu(
        name=seen.get("name", "unknown") if card is None else card.name,
        uuid=None if card is None else card.uuid,
        profile=profile,
        total_bytes=total_bytes,
        torch_total_bytes=seen.get("torch_total_bytes"),
        driver=None if card is None else card.driver,
        compute_capability=seen.get("compute_capability"),
        num_multiprocessors=seen.get("num_multiprocessors"),
        baseline_used_bytes=baseline_used_bytes,
        context_bytes=max(after - baseline_used_bytes, 0) if has_both else None,  # type: ignore[operator]
    )


def emptied_of(finished: Finished, eye: Eye | None) -> RecordMoment | None:
    """What was left after the run, with the cache emptied."""
    event = finished.last("emptied")
    if event is None:
        return None
    return RecordMoment(
        allocated_bytes=event["allocated_bytes"],
        reserved_bytes=event["reserved_bytes"],
        device_used_bytes=None if eye is None else eye.last(event["time"], event["settled"]),
    )


def out_of_memory_of(finished: Finished, snapshot: str | None) -> RecordOutOfMemory | None:
    """Where the allocator threw, or None."""
    end = finished.last("end")
    if end is None or end["outcome"] != "out_of_memory":
        return None
    return RecordOutOfMemory(
        phase=phase_of(end["phase"]),
        requested_bytes=end["requested_bytes"],
        allocated_bytes=end["allocated_bytes"],
        reserved_bytes=end["reserved_bytes"],
        snapshot=snapshot if end["has_snapshot"] else None,
    )


def outcome_of(finished: Finished, timeout_seconds: float) -> tuple[str, str | None]:
    """How it ended, and a sentence on what went wrong or None."""
    end = finished.last("end")
    if end is not None:
        return end["outcome"], end.get("message")
    if finished.interrupted:
        return "interrupted", "it was interrupted"
    if finished.timed_out:
        return "timed_out", f"it did not end within {timeout_seconds:g} s"
    if finished.exit_code < 0:
        number = -finished.exit_code
        why = "; the host may have run out of memory" if number == 9 else ""
        return "killed", f"signal {number} ended it{why}"
    return "failed", finished.complaint or f"it ended with code {finished.exit_code} and said nothing"


def stopped_in(finished: Finished) -> str | None:
    """The phase that had begun and not ended."""
    marks, ends = finished.all("mark"), finished.all("phase")
    return phase_of(marks[-1]["phase"]) if len(marks) > len(ends) else None


def versions_of(finished: Finished, driver: str | None) -> dict[str, str | None]:
    """Versions of everything that has a say in the numbers."""
    said = finished.last("versions") or {}
    versions = {name: _installed(name) for name in _LIBRARIES}
    return {
        **versions,
        "torch": said.get("torch") or versions["torch"],
        "cuda": said.get("cuda"),
        "driver": driver,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "vramplan": __version__,
    }


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def prediction_of(report: MemoryReport | None) -> Prediction | None:
    """A report's totals."""
    if report is None:
        return None
    return Prediction(
        phases=tuple(
            PredictedPhase(
                name=phase.name,
                allocated_bytes=phase.allocated_bytes,
                reserved_bytes=phase.reserved_bytes,
                device_used_bytes=phase.device_used_bytes,
            )
            for phase in report.phases
        ),
        low_bytes=report.peak.low_bytes,
        high_bytes=report.peak.high_bytes,
    )


def now() -> str:
    """The time, as records write it."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def allocator_conf(asked: str | None) -> str:
    """PYTORCH_ALLOC_CONF of the measuring process: what was asked for, else what this process has."""
    if asked is not None:
        return asked
    return os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get("PYTORCH_CUDA_ALLOC_CONF") or ""
