"""A rollout engine in the measured process: what torch's counters hold of it is taken off the run's own numbers.

Estimate and simulate count the engine as a share of the card, outside `allocated` and `reserved`; torch counts its
tensors in both, in sleep mode even while they are unmapped (program/vllm_engine.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from vramplan.core.run import RolloutBackend, Run
from vramplan.program.supervise import Finished
from vramplan.records.record import RecordEngine

_COUNTS = ("allocated_bytes", "reserved_bytes", "end_allocated_bytes", "end_reserved_bytes")


def engine_of(finished: Finished, run: Run, versions: Mapping[str, str | None]) -> RecordEngine | None:
    """The engine that was started, or None."""
    event = finished.last("engine")
    if event is None or run.rollout is None or run.rollout.backend is not RolloutBackend.VLLM_COLOCATE:
        return None
    return RecordEngine(
        name="vllm",
        version=versions.get("vllm"),
        sleeps=run.rollout.sleep,
        allocated_bytes=event["allocated_bytes"],
        reserved_bytes=event["reserved_bytes"],
    )


def without_engine(finished: Finished) -> Finished:
    """The same, with the engine's constant part taken off every count that came after its start."""
    return replace(finished, events=tuple(_less(finished.events)))


def _less(events: tuple[Mapping[str, Any], ...]) -> Iterator[Mapping[str, Any]]:
    engine: Mapping[str, Any] | None = None
    for event in events:
        if event.get("event") == "engine":
            engine = event
        elif engine is not None and any(name in event for name in _COUNTS):
            event = {**event, **_own(event, engine)}
        yield event


def _own(event: Mapping[str, Any], engine: Mapping[str, Any]) -> dict[str, int]:
    """Segments never hold less than their tensors, whatever the engine gave back since."""
    own: dict[str, int] = {}
    for prefix in ("", "end_"):
        allocated, reserved = event.get(f"{prefix}allocated_bytes"), event.get(f"{prefix}reserved_bytes")
        if allocated is not None and reserved is not None:
            own[f"{prefix}allocated_bytes"] = max(allocated - engine["allocated_bytes"], 0)
            own[f"{prefix}reserved_bytes"] = max(reserved - engine["reserved_bytes"], own[f"{prefix}allocated_bytes"])
    return own


def engine_note(engine: RecordEngine) -> str:
    """What is counted where."""
    asleep = ", which torch goes on counting while it sleeps," if engine.sleeps else ""
    return (
        f"allocated and reserved are the run's own: vLLM's weights, KV cache and graphs{asleep} are taken off from the "
        f"engine's start on, {engine.allocated_bytes / 1e9:.2f} GB of allocated and {engine.reserved_bytes / 1e9:.2f} "
        f"GB of reserved; what it makes while it generates is in the rollout's, and device is of the whole process"
    )
