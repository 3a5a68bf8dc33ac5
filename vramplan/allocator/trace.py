"""A recorded trace, replayed event by event through the model and compared with what the real allocator did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vramplan.allocator.caching import DEFAULT
from vramplan.allocator.config import AllocatorConfig
from vramplan.allocator.device import ENDLESS_BYTES
from vramplan.allocator.layout import Layout
from vramplan.allocator.owners import Owners
from vramplan.allocator.program import Program
from vramplan.allocator.rebuild import InconsistentTraceError, Start, starting_state
from vramplan.allocator.snapshot import OOM, SEGMENT_MAP, SegmentRecord, Snapshot, TraceEvent
from vramplan.allocator.state import segments_of
from vramplan.allocator.trace_run import TraceRun
from vramplan.units import MiB

_MOST_CORRECTIONS = 256
"""Blocks whose size is found by trying; each try replays the trace from its start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceReplay:
    """How one device's trace went in the model, and how near that is to the recording.

    Attributes:
        device: whose trace it is.
        config: the recorded settings; the defaults where none were recorded.
        num_events: in the trace.
        start: `empty` where the trace begins with nothing reserved, `rebuilt` where the state it began in was found by
            undoing it, `unknown` where that failed.
        start_problem: why it failed, or None.
        num_allocations: in the trace.
        num_at_recorded_address: of them, at the address that was recorded.
        first_difference: the first allocation that is not, in words; None where all are.
        num_growths: segments got and ranges mapped in the trace.
        num_growths_matched: of them, got by the model at the same moment and of the same size.
        num_growths_unrecorded: got by the model and not in the trace.
        num_segments: in the snapshot, after the trace.
        num_segments_matched: of them, in the model's final state at the same address and of the same size.
        recorded_peak_reserved_bytes: by the recorded segments; None where the start is unknown.
        peak_allocated_bytes: in the model; likewise the next ones.
        reserved_at_peak_bytes: when `peak_allocated_bytes` was first reached.
        peak_reserved_bytes: the most that was reserved.
        final_allocated_bytes: after the last event.
        final_reserved_bytes: after the last event.
        program: the trace without its addresses, to be run under other settings.
    """

    device: int
    config: AllocatorConfig
    num_events: int
    start: str
    start_problem: str | None
    num_allocations: int
    num_at_recorded_address: int
    first_difference: str | None
    num_growths: int
    num_growths_matched: int
    num_growths_unrecorded: int
    num_segments: int
    num_segments_matched: int
    recorded_peak_reserved_bytes: int | None
    peak_allocated_bytes: int
    reserved_at_peak_bytes: int
    peak_reserved_bytes: int
    final_allocated_bytes: int
    final_reserved_bytes: int
    program: Program

    @property
    def is_exact(self) -> bool:
        """Whether every allocation and every segment is as recorded."""
        return (
            self.num_at_recorded_address == self.num_allocations
            and self.num_growths_matched == self.num_growths
            and self.num_growths_unrecorded == 0
            and self.num_segments_matched == self.num_segments
        )

    @property
    def fragmentation_ratio(self) -> float:
        """Share of the reserved bytes that no block used when the most was allocated; 0 where nothing was reserved."""
        if not self.reserved_at_peak_bytes:
            return 0.0
        return 1 - self.peak_allocated_bytes / self.reserved_at_peak_bytes


def other_settings(config: AllocatorConfig) -> tuple[AllocatorConfig, ...]:
    """What a trace is worth trying under: segments the other way, and limits for splitting, larger than the recorded.

    The limits are 128 and 512 MiB, the usual advice against fragmentation, and none. They are for segments that do
    not expand: with those that do, no free block above the limit is ever used for a smaller request.
    """
    limit = config.max_split_size_bytes
    fixed = replace(config, expandable_segments=False)
    return (
        replace(config, expandable_segments=not config.expandable_segments),
        *(replace(fixed, max_split_size_bytes=mib * MiB) for mib in (128, 512) if limit is None or mib * MiB > limit),
        *([replace(fixed, max_split_size_bytes=None)] if limit is not None else []),
    )


def replay_trace(snapshot: Snapshot, device: int) -> TraceReplay:
    """Replays the events of one device under the recorded settings."""
    final = snapshot.segments_of(device)
    run, start, problem = run_trace(snapshot, device)
    model = run.allocator
    wanted = {(segment.address, segment.size_bytes) for segment in final}
    got = {(segment.address, segment.size_bytes) for segment in segments_of(model, device)}
    return TraceReplay(
        device=device,
        config=model.config,
        num_events=len(snapshot.trace_of(device)),
        start="unknown" if problem else "rebuilt" if start.segments else "empty",
        start_problem=problem,
        num_allocations=run.num_allocations,
        num_at_recorded_address=run.num_at_recorded_address,
        first_difference=run.first_difference,
        num_growths=run.num_growths,
        num_growths_matched=run.memory.num_matched,
        num_growths_unrecorded=run.memory.num_unrecorded,
        num_segments=len(wanted),
        num_segments_matched=len(wanted & got),
        recorded_peak_reserved_bytes=None if problem else run.recorded_peak_bytes,
        peak_allocated_bytes=model.peak_allocated_bytes,
        reserved_at_peak_bytes=model.reserved_at_peak_bytes,
        peak_reserved_bytes=model.peak_reserved_bytes,
        final_allocated_bytes=model.allocated_bytes,
        final_reserved_bytes=model.reserved_bytes,
        program=run.program,
    )


def run_trace(snapshot: Snapshot, device: int) -> tuple[TraceRun, Start, str | None]:
    """The finished pass, the state it began in, and why that is not known."""
    events = snapshot.trace_of(device)
    final = snapshot.segments_of(device)
    config = snapshot.config or _guess_config(events, final)
    layout, owners = Layout(snapshot), Owners(final)
    extra_bytes: dict[int, int] = {}
    problem = None
    while True:
        try:
            start = starting_state(events, final, config, layout, extra_bytes)
        except InconsistentTraceError as error:
            start, problem = Start(segments=(), unsure=frozenset()), error.message
        run = TraceRun(config, start, layout, owners, first_free_address=_top(events, final))
        for event in events:
            run.step(event)
            if run.correction is not None and len(extra_bytes) < _MOST_CORRECTIONS:
                break
        else:
            run.finish()
            return run, start, problem
        # A block that was there at the start must have been larger, or the pool would have chosen as the model did.
        address, num_bytes = run.correction
        extra_bytes[address] = extra_bytes.get(address, 0) + num_bytes


def _guess_config(events: Sequence[TraceEvent], final: Sequence[SegmentRecord]) -> AllocatorConfig:
    """Snapshots of torch before 2.1 have no settings; mapped ranges show that segments are expandable."""
    if any(event.action == SEGMENT_MAP for event in events) or any(segment.is_expandable for segment in final):
        return AllocatorConfig(expandable_segments=True)
    return DEFAULT


def _top(events: Sequence[TraceEvent], final: Sequence[SegmentRecord]) -> int:
    """An address above all recorded ones, and above what expandable segments could grow into."""
    ends = [segment.end for segment in final]
    ends += [event.address + event.size_bytes for event in events if event.action != OOM]
    return max(ends, default=0) + 2 * ENDLESS_BYTES
