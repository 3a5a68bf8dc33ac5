"""Recorded traces replayed: every block at its address, every segment of its size, on real and on made snapshots."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramplan.allocator.blocks import FREE, Block, Stream
from vramplan.allocator.config import AllocatorConfig
from vramplan.allocator.layout import Layout
from vramplan.allocator.oom import OutOfMemory
from vramplan.allocator.recording import Recorder
from vramplan.allocator.snapshot import SegmentRecord, Snapshot
from vramplan.allocator.snapshot_reader import parse_snapshot, read_snapshot
from vramplan.allocator.snapshot_writer import snapshot_dict
from vramplan.allocator.state import segments_of
from vramplan.allocator.trace import other_settings, replay_trace, run_trace

MiB = 2**20


@pytest.fixture(scope="module")
def real_snapshots(shared: Path) -> dict[str, Snapshot]:
    return {path.name: read_snapshot(path) for path in sorted((shared / "snapshots").glob("*.pickle"))}


def test_real_traces_land_where_they_were_recorded(real_snapshots: dict[str, Snapshot]) -> None:
    starts = []
    for name, snapshot in real_snapshots.items():
        for device in snapshot.devices:
            replay = replay_trace(snapshot, device)
            assert replay.is_exact, (name, replay.first_difference)
            assert replay.num_at_recorded_address == replay.num_allocations > 0
            assert replay.peak_reserved_bytes == replay.recorded_peak_reserved_bytes
            held = sum(segment.size_bytes for segment in snapshot.segments_of(device))
            assert replay.final_reserved_bytes == held
            starts.append(replay.start)
    assert starts.count("empty") == 4
    assert starts.count("rebuilt") == 5


def test_real_states_are_the_same_block_for_block(real_snapshots: dict[str, Snapshot]) -> None:
    for name, snapshot in real_snapshots.items():
        for device in snapshot.devices:
            run, _, _ = run_trace(snapshot, device)
            ours, theirs = segments_of(run.allocator, device), snapshot.segments_of(device)
            assert [blocks_of(segment) for segment in ours] == [blocks_of(segment) for segment in theirs], name


def blocks_of(segment: SegmentRecord) -> tuple[object, ...]:
    """All but the stacks, and of free blocks what they last were asked for."""
    return (
        segment.address,
        segment.is_small,
        segment.is_expandable,
        segment.owner,
        [
            (block.address, block.size_bytes, block.state, block.requested_bytes * (block.state != FREE))
            for block in segment.blocks
        ],
    )


EXPANDING = "ConstructorSun__memory_snapshot.pickle"


def test_real_addresses_of_expandable_segments_are_9_8_of_the_card(real_snapshots: dict[str, Snapshot]) -> None:
    layout = Layout(real_snapshots[EXPANDING])
    # Three cards of 79.1 GiB; the driver rounds up to 32 MiB.
    assert layout.address_space_bytes == 2849 * 32 * MiB


def test_other_settings_of_a_real_trace(real_snapshots: dict[str, Snapshot]) -> None:
    replay = replay_trace(real_snapshots[EXPANDING], 0)
    assert replay.program.run(replay.config).peak_reserved_bytes == replay.peak_reserved_bytes
    assert replay.program.run(AllocatorConfig()).peak_reserved_bytes > replay.peak_reserved_bytes


CONFIGS = (
    "",
    "max_split_size_mb:20",
    "max_split_size_mb:50",
    "roundup_power2_divisions:4",
    "expandable_segments:True",
    "expandable_segments:True,roundup_power2_divisions:[1:2,8:4,16:1]",
    "garbage_collection_threshold:0.5,per_process_memory_fraction:0.9",
)
STREAMS: tuple[tuple[Stream, ...], ...] = ((0,), (0, 7, (0, (0, 1))))


def make_snapshot(
    seed: int, text: str, *, streams: tuple[Stream, ...] = (0,), capacity_bytes: int | None = None, steps: int = 150
) -> Snapshot:
    """A recording of a random program, with out-of-memory errors, emptied caches and streams."""
    rng = random.Random(seed)
    recorder = Recorder(AllocatorConfig.parse(text), capacity_bytes)
    live: list[Block] = []
    pending: list[Block] = []
    for _ in range(steps):
        choice = rng.random()
        if choice < 0.55 or not live:
            small = rng.choice((1, 512, 700, 4096, 300_000, MiB, MiB + 1))
            sizes = (small, rng.randrange(MiB, 6 * MiB), rng.randrange(6 * MiB, 30 * MiB), rng.randrange(1, 200 * MiB))
            try:
                live.append(recorder.malloc(rng.choice(sizes), rng.choice(streams)))
            except OutOfMemory:
                continue
        elif choice < 0.93:
            block = live.pop(rng.randrange(len(live)))
            if len(streams) > 1 and rng.random() < 0.3:
                recorder.request_free(block)
                pending.append(block)
            else:
                recorder.free(block)
        elif choice < 0.97:
            if pending:
                recorder.complete_free(pending.pop(rng.randrange(len(pending))))
        else:
            recorder.empty_cache()
    return recorder.snapshot()


def cut(snapshot: Snapshot, share: float, *, with_pools: bool = True) -> Snapshot:
    """The same with only the last events, as a ring buffer leaves them, as an older torch would write it."""
    events = snapshot.trace_of(0)[int(share * len(snapshot.trace_of(0))) :]
    if not with_pools:
        events = tuple(event._replace(pool_id=None) for event in events)
    return parse_snapshot(snapshot_dict(replace(snapshot, traces=(events,))))


@given(
    st.integers(0, 2**32),
    st.sampled_from(CONFIGS),
    st.sampled_from(STREAMS),
    st.floats(0, 1),
    st.booleans(),
)
def test_a_trace_cut_anywhere_is_replayed_exactly(
    seed: int, text: str, streams: tuple[Stream, ...], share: float, with_pools: bool
) -> None:
    snapshot = cut(make_snapshot(seed, text, streams=streams), share, with_pools=with_pools)
    replay = replay_trace(snapshot, 0)
    assert replay.is_exact, (replay.start_problem, replay.first_difference)
    assert replay.start != "unknown"


@given(st.integers(0, 2**32), st.sampled_from([text for text in CONFIGS if "expandable" not in text]), st.floats(0, 1))
def test_so_is_one_with_out_of_memory_errors(seed: int, text: str, share: float) -> None:
    snapshot = cut(make_snapshot(seed, text, capacity_bytes=400 * MiB), share)
    replay = replay_trace(snapshot, 0)
    assert replay.is_exact, (replay.start_problem, replay.first_difference)
    assert replay.peak_reserved_bytes <= 400 * MiB


@given(st.integers(0, 2**32), st.sampled_from(CONFIGS))
def test_a_whole_trace_gives_the_recorders_own_numbers(seed: int, text: str) -> None:
    snapshot = make_snapshot(seed, text, streams=STREAMS[1])
    replay = replay_trace(snapshot, 0)
    assert replay.start == "empty"
    assert replay.peak_reserved_bytes == replay.recorded_peak_reserved_bytes
    assert replay.final_reserved_bytes == sum(segment.size_bytes for segment in snapshot.segments)
    again = replay.program.run(replay.config)
    if "garbage" not in text:
        assert again.peak_allocated_bytes == replay.peak_allocated_bytes
        assert again.peak_reserved_bytes == replay.peak_reserved_bytes


def test_a_size_that_only_a_later_choice_shows() -> None:
    # A block of 9 MiB is given 10: its neighbour is freed before the trace, and nothing shows where it ends.
    recorder = Recorder()
    hidden = recorder.malloc(12 * MiB)
    recorder.free(hidden)
    recorder.malloc(2 * MiB)
    nine, five = recorder.malloc(9 * MiB + 512), recorder.malloc(30 * MiB)
    assert nine.size == 10 * MiB
    recorder.free(nine)
    begin = len(recorder.events)
    recorder.free(five)
    snapshot = recorder.snapshot()
    replay = replay_trace(replace(snapshot, traces=(tuple(recorder.events[begin:]),)), 0)
    assert replay.is_exact
    assert replay.start == "rebuilt"


def test_a_trace_with_events_missing_says_so() -> None:
    snapshot = make_snapshot(1, "")
    events = [event for index, event in enumerate(snapshot.trace_of(0)) if index % 7]
    replay = replay_trace(replace(snapshot, traces=(tuple(events),)), 0)
    assert replay.start == "unknown"
    assert replay.start_problem
    assert replay.recorded_peak_reserved_bytes is None
    assert not replay.is_exact


@given(st.integers(0, 2**32), st.sampled_from(CONFIGS), st.data())
def test_no_trace_breaks_the_replay(seed: int, text: str, data: st.DataObject) -> None:
    snapshot = make_snapshot(seed, text, streams=STREAMS[1], steps=60)
    events = list(snapshot.trace_of(0))
    for _ in range(data.draw(st.integers(1, 4))):
        index = data.draw(st.integers(0, len(events) - 1))
        other = events[data.draw(st.integers(0, len(events) - 1))]
        changed = data.draw(
            st.sampled_from(
                [other, events[index]._replace(address=other.address), events[index]._replace(size_bytes=2 * MiB)]
            )
        )
        events[index : index + data.draw(st.integers(0, 1))] = [changed]
    replay = replay_trace(replace(snapshot, traces=(tuple(events),)), 0)
    assert replay.num_at_recorded_address <= replay.num_allocations
    replay.program.run(AllocatorConfig())


def test_frees_without_requests_are_enough() -> None:
    snapshot = make_snapshot(3, "")
    events = tuple(event for event in snapshot.trace_of(0) if event.action != "free_requested")
    assert replay_trace(replace(snapshot, traces=(events,)), 0).num_at_recorded_address > 0


def test_expandable_segments_turned_on_and_off_while_recording() -> None:
    recorder = Recorder()
    blocks = [recorder.malloc(size * MiB) for size in (3, 30)]
    recorder.allocator.expand(0, True)
    blocks += [recorder.malloc(size * MiB) for size in (40, 5, 19)]
    recorder.free(blocks[1])
    recorder.allocator.expand(0, False)
    blocks += [recorder.malloc(size * MiB) for size in (64, 28, 2)]
    replay = replay_trace(recorder.snapshot(), 0)
    assert replay.is_exact, replay.first_difference
    assert replay.num_growths == 5


def test_a_memory_pool_that_brings_its_allocator_does_not_expand() -> None:
    own: Stream = (0, (0, 1))
    recorder = Recorder(AllocatorConfig(expandable_segments=True))
    recorder.allocator.expand(own, False)
    for size in (3, 30, 12):
        recorder.free(recorder.malloc(size * MiB, own))
        recorder.malloc(size * MiB)
    recorder.malloc(11 * MiB, own)
    snapshot = recorder.snapshot()
    assert replay_trace(snapshot, 0).is_exact
    half = replay_trace(cut(snapshot, 0.6), 0)
    assert half.is_exact
    assert half.start == "rebuilt"


def test_settings_that_were_not_recorded_are_seen_from_the_segments() -> None:
    for text in ("", "expandable_segments:True"):
        snapshot = replace(make_snapshot(5, text), config=None)
        replay = replay_trace(snapshot, 0)
        assert replay.is_exact
        assert replay.config.format() == text


@pytest.mark.parametrize(
    ("text", "others"),
    [
        ("", ["expandable_segments:True", "max_split_size_mb:128", "max_split_size_mb:512"]),
        ("expandable_segments:True", ["", "max_split_size_mb:128", "max_split_size_mb:512"]),
        ("max_split_size_mb:200", ["expandable_segments:True,max_split_size_mb:200", "max_split_size_mb:512", ""]),
    ],
)
def test_the_other_settings(text: str, others: list[str]) -> None:
    assert [config.format() for config in other_settings(AllocatorConfig.parse(text))] == others


def test_nothing_reserved_is_nothing_unused() -> None:
    empty: dict[str, Any] = {"segments": [], "device_traces": [[{"action": "snapshot", "addr": 0, "size": 0}]]}
    replay = replay_trace(parse_snapshot(empty), 0)
    assert replay.fragmentation_ratio == 0
    assert replay.start == "empty"
    assert replay.is_exact
