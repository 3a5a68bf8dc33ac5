"""`vramplan replay`: a recorded trace through the model of the caching allocator."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vramplan.allocator.program import Outcome
    from vramplan.allocator.snapshot import Snapshot
    from vramplan.allocator.trace import TraceReplay

SCHEMA = "vramplan.replay/1"


def replay_command(
    snapshot: Annotated[Path, typer.Argument(help="A file of torch.cuda.memory._dump_snapshot.", metavar="SNAPSHOT")],
    alloc_conf: Annotated[
        list[str] | None,
        typer.Option("--alloc-conf", "--alloc_conf", help="Also try these PYTORCH_ALLOC_CONF settings.", metavar="STR"),
    ] = None,
    units: Annotated[str, typer.Option("--units", help="GB, GiB or bytes.")] = "GB",
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Replay a recorded CUDA memory snapshot, and what it would reserve under other allocator settings."""
    import json

    from vramplan.allocator.config import AllocatorConfig
    from vramplan.allocator.snapshot_reader import read_snapshot
    from vramplan.allocator.trace import other_settings, replay_trace
    from vramplan.errors import UsageError
    from vramplan.units import DISPLAY_UNITS

    if units not in DISPLAY_UNITS:
        raise UsageError(f"{units!r} is not a unit", hint=f"use one of {', '.join(DISPLAY_UNITS)}")
    asked = [AllocatorConfig.parse(text) for text in alloc_conf or ()]
    recorded = read_snapshot(snapshot)
    replays = [replay_trace(recorded, device) for device in recorded.devices if recorded.trace_of(device)]
    outcomes = {
        replay.device: [replay.program.run(config) for config in (*other_settings(replay.config), *asked)]
        for replay in replays
    }
    if as_json:
        report: dict[str, Any] = {
            "schema": SCHEMA,
            "snapshot": str(snapshot),
            "devices": [_held(recorded, device) for device in recorded.devices],
            "replays": [_as_json(replay, outcomes[replay.device]) for replay in replays],
        }
        typer.echo(json.dumps(report, indent=2))
        return
    for device in recorded.devices:
        replay = next((item for item in replays if item.device == device), None)
        if replay is None:
            typer.echo("\n".join(_held_lines(_held(recorded, device), units)))
        else:
            typer.echo("\n".join(_replay_lines(replay, outcomes[device], units)))


def _held(snapshot: Snapshot, device: int) -> dict[str, int]:
    """What the snapshot itself says of a device."""
    from vramplan.allocator.blocks import ALLOCATED, PENDING

    segments = snapshot.segments_of(device)
    return {
        "device": device,
        "num_segments": len(segments),
        "num_events": len(snapshot.trace_of(device)),
        "allocated_bytes": sum(segment.bytes_in(ALLOCATED) for segment in segments),
        "active_bytes": sum(segment.bytes_in(ALLOCATED, PENDING) for segment in segments),
        "reserved_bytes": sum(segment.size_bytes for segment in segments),
    }


def _as_json(replay: TraceReplay, outcomes: list[Outcome]) -> dict[str, Any]:
    return {
        "device": replay.device,
        "settings": replay.config.format(),
        "num_events": replay.num_events,
        "start": replay.start,
        "start_problem": replay.start_problem,
        "exact": replay.is_exact,
        "num_allocations": replay.num_allocations,
        "num_at_recorded_address": replay.num_at_recorded_address,
        "first_difference": replay.first_difference,
        "num_growths": replay.num_growths,
        "num_growths_matched": replay.num_growths_matched,
        "num_growths_unrecorded": replay.num_growths_unrecorded,
        "num_segments": replay.num_segments,
        "num_segments_matched": replay.num_segments_matched,
        "recorded_peak_reserved_bytes": replay.recorded_peak_reserved_bytes,
        "peak_allocated_bytes": replay.peak_allocated_bytes,
        "reserved_at_peak_bytes": replay.reserved_at_peak_bytes,
        "peak_reserved_bytes": replay.peak_reserved_bytes,
        "fragmentation_ratio": replay.fragmentation_ratio,
        "final_allocated_bytes": replay.final_allocated_bytes,
        "final_reserved_bytes": replay.final_reserved_bytes,
        "other_settings": [
            {
                "settings": outcome.config.format(),
                "peak_allocated_bytes": outcome.peak_allocated_bytes,
                "reserved_at_peak_bytes": outcome.reserved_at_peak_bytes,
                "peak_reserved_bytes": outcome.peak_reserved_bytes,
            }
            for outcome in outcomes
        ],
    }


def _held_lines(held: dict[str, int], units: str) -> list[str]:
    from vramplan.units import format_bytes

    allocated, reserved = (format_bytes(held[f"{name}_bytes"], units, digits=3) for name in ("allocated", "reserved"))
    return [
        f"device {held['device']}: no events were recorded, so there is nothing to replay",
        f"  segments: {held['num_segments']}, allocated: {allocated} {units}, reserved: {reserved} {units}",
    ]


def _replay_lines(replay: TraceReplay, outcomes: list[Outcome], units: str) -> list[str]:
    starts = {
        "empty": "from an empty start",
        "rebuilt": "from a rebuilt start",
        "unknown": "from an unknown start",
    }
    lines = [
        f"device {replay.device}: {replay.num_allocations:,} allocations in {replay.num_events:,} events, "
        f"{starts[replay.start]}",
        f"  at the recorded address   {replay.num_at_recorded_address:,} of {replay.num_allocations:,}",
        f"  segments while running    {replay.num_growths_matched:,} of {replay.num_growths:,} of the recorded size, "
        f"{replay.num_growths_unrecorded:,} more",
        f"  segments at the end       {replay.num_segments_matched:,} of {replay.num_segments:,} of the recorded size",
        f"  unused at the peak        {replay.fragmentation_ratio:.1%} of what was reserved",
    ]
    for text in (replay.start_problem, replay.first_difference):
        lines += textwrap.wrap(text or "", 80, initial_indent="  ", subsequent_indent="    ")
    lines += ["", f"  {f'peaks in {units}':<44}{'allocated':>16}{'reserved':>16}"]
    if replay.recorded_peak_reserved_bytes is not None:
        lines.append(_row("recorded", None, replay.recorded_peak_reserved_bytes, units))
    lines.append(_row("replayed", replay.peak_allocated_bytes, replay.peak_reserved_bytes, units))
    for outcome in outcomes:
        name = outcome.config.format() or "the defaults"
        lines.append(_row(name, outcome.peak_allocated_bytes, outcome.peak_reserved_bytes, units))
    if replay.start == "rebuilt":
        lines.append("  Under other settings the blocks of the start are laid out afresh.")
    return [*lines, ""]


def _row(name: str, allocated_bytes: int | None, reserved_bytes: int, units: str) -> str:
    from vramplan.units import format_bytes

    allocated = "-" if allocated_bytes is None else format_bytes(allocated_bytes, units, digits=3)
    first = f"  {name:<44}" if len(name) <= 44 else f"  {name}\n  {'':<44}"
    return f"{first}{allocated:>16}{format_bytes(reserved_bytes, units, digits=3):>16}"
