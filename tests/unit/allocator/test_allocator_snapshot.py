"""Snapshots: every form PyTorch has written, nothing that runs, and files that PyTorch's viewer opens."""

from __future__ import annotations

import contextlib
import copy
import pickle
import pickletools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramplan.allocator.blocks import ALLOCATED, FREE, PENDING
from vramplan.allocator.config import AllocatorConfig
from vramplan.allocator.recording import Recorder
from vramplan.allocator.snapshot import BlockRecord, Frame, SegmentRecord, Snapshot, TraceEvent
from vramplan.allocator.snapshot_reader import load_plain, parse_snapshot, read_snapshot
from vramplan.allocator.snapshot_writer import snapshot_dict, write_snapshot
from vramplan.errors import UsageError

MiB = 2**20
FRAMES = (Frame("linear", "model.py", 12), Frame("forward", "model.py", 30))


def recorded() -> Snapshot:
    """A little of everything: streams, a memory pool, a pending block, stacks."""
    recorder = Recorder(AllocatorConfig(max_split_size_bytes=64 * MiB))
    kept = recorder.malloc(3 * MiB, frames=FRAMES)
    recorder.malloc(700, stream=7)
    recorder.malloc(30 * MiB, stream=(0, (0, 1)), frames=FRAMES)
    pending = recorder.malloc(5 * MiB, stream=7, frames=FRAMES)
    recorder.request_free(pending)
    recorder.free(kept)
    recorder.malloc(2 * MiB)
    return recorder.snapshot(device=1)


# The list that torch 1.x returned: no addresses of blocks, the request and the stack in a history.
OLD_LIST: list[dict[str, Any]] = [
    {
        "device": 0,
        "address": 0x7F0000000000,
        "total_size": 2 * MiB,
        "allocated_size": 1024,
        "active_size": 1024,
        "segment_type": "small",
        "blocks": [
            {
                "size": 1024,
                "state": "active_allocated",
                "history": [
                    {
                        "addr": 0x7F0000000000,
                        "real_size": 1000,
                        "frames": [{"name": "f", "filename": "a.py", "line": 1}],
                    }
                ],
            },
            {"size": 2 * MiB - 1024, "state": "inactive"},
        ],
    }
]


def test_the_old_list_of_segments() -> None:
    snapshot = parse_snapshot(OLD_LIST)
    assert snapshot.traces == ()
    assert snapshot.config is None
    assert snapshot.devices == (0,)
    (segment,) = snapshot.segments
    assert (segment.is_small, segment.is_expandable, segment.stream, segment.pool_id) == (True, False, 0, (0, 0))
    used, free = segment.blocks
    assert (used.address, used.size_bytes, used.requested_bytes, used.state) == (0x7F0000000000, 1024, 1000, ALLOCATED)
    assert used.frames == (Frame("f", "a.py", 1),)
    assert (free.address, free.state) == (0x7F0000000000 + 1024, FREE)


def test_a_free_in_one_event() -> None:
    trace = [
        {"action": "alloc", "addr": 4096, "size": 10, "stream": 0},
        {"action": "free", "addr": 4096, "size": 10, "stream": 0},
        {"action": "oom", "size": 99, "device_free": 5, "stream": 0},
    ]
    snapshot = parse_snapshot({"segments": [], "device_traces": [[], trace]})
    assert [event.action for event in snapshot.trace_of(1)] == ["alloc", "free_requested", "free_completed", "oom"]
    assert snapshot.trace_of(1)[-1].address == 5
    assert snapshot.trace_of(0) == snapshot.trace_of(9) == ()
    assert snapshot.devices == (1,)


def test_settings_as_torch_records_them() -> None:
    divisions = {str(1 << index): 4 if index == 2 else 0 for index in range(16)}
    settings = {
        "PYTORCH_CUDA_ALLOC_CONF": "large_segment_size_mb:32,max_non_split_rounding_mb:40",
        "max_split_size": 128 * MiB,
        "garbage_collection_threshold": 0.6,
        "expandable_segments": True,
        "roundup_power2_divisions": divisions,
    }
    config = parse_snapshot({"segments": [], "allocator_settings": settings}).config
    assert config == AllocatorConfig(
        max_split_size_bytes=128 * MiB,
        max_non_split_rounding_bytes=40 * MiB,
        roundup_power2_divisions=(0, 0, 4) + (0,) * 13,
        garbage_collection_threshold=0.6,
        expandable_segments=True,
        large_segment_size_bytes=32 * MiB,
    )


def test_settings_of_a_version_to_come() -> None:
    settings = {"PYTORCH_CUDA_ALLOC_CONF": "some_new_key:1", "max_split_size": -1, "expandable_segments": True}
    config = parse_snapshot({"segments": [], "allocator_settings": settings}).config
    assert config == AllocatorConfig(expandable_segments=True)


@pytest.mark.parametrize("state", ["active_pending_free", "active_awaiting_free"])
def test_both_words_for_a_pending_block(state: str) -> None:
    data = copy.deepcopy(OLD_LIST)
    data[0]["blocks"][0]["state"] = state
    assert parse_snapshot(data).segments[0].blocks[0].state == PENDING


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    snapshot = recorded()
    write_snapshot(snapshot, tmp_path / "snapshot.pickle")
    assert read_snapshot(tmp_path / "snapshot.pickle") == snapshot
    assert snapshot.devices == (1,)
    assert {segment.owner for segment in snapshot.segments} == {0, 7, (0, (0, 1))}


def test_real_snapshots_read_back_with_the_sums_that_torch_wrote(shared: Path) -> None:
    for path in sorted((shared / "snapshots").glob("*.pickle")):
        data = load_plain(path.read_bytes())
        assert isinstance(data, dict)
        snapshot = parse_snapshot(data)
        written = snapshot_dict(snapshot)
        assert parse_snapshot(written) == snapshot
        ours = {(segment["device"], segment["address"]): segment for segment in written["segments"]}
        for theirs in data["segments"]:
            mine = ours[theirs["device"], theirs["address"]]
            for key in ("total_size", "allocated_size", "active_size", "requested_size", "stream", "segment_type"):
                assert mine[key] == theirs[key]


# What MemoryViz.js of torch 2.12 has a case for; anything else ends the viewer with an error.
VIEWER_OPCODES = {
    "PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT", "EMPTY_DICT",
    "EMPTY_LIST", "EMPTY_TUPLE", "SETITEM", "SETITEMS", "APPEND", "APPENDS", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "NEWTRUE", "NEWFALSE", "NONE", "SHORT_BINUNICODE",
    "BINUNICODE", "LIST", "DICT",
}  # fmt: skip


def test_the_viewer_in_the_browser_knows_every_opcode(tmp_path: Path) -> None:
    write_snapshot(recorded(), tmp_path / "snapshot.pickle")
    data = (tmp_path / "snapshot.pickle").read_bytes()
    opcodes = {(opcode.name, argument) for opcode, argument, _ in pickletools.genops(data)}
    assert {name for name, _ in opcodes} <= VIEWER_OPCODES
    assert ("PROTO", 4) in opcodes


def test_the_viewer_finds_the_events_of_a_device_by_its_number() -> None:
    data = snapshot_dict(recorded())
    assert [len(trace) > 0 for trace in data["device_traces"]] == [False, True]


def test_torchs_own_tools_accept_what_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    viz = pytest.importorskip("torch.cuda._memory_viz")
    write_snapshot(recorded(), tmp_path / "snapshot.pickle")
    data = pickle.loads((tmp_path / "snapshot.pickle").read_bytes())

    summary = viz.segsum(data)
    assert "segments: 4" in summary
    assert "total_reserved: 72.0MiB" in summary
    text = viz.trace(data)
    assert "Device 1" in text
    assert "cudaMalloc" in text
    assert "model.py:30:forward;model.py:12:linear 5242880" in viz.memory(data, format_flamegraph=str)
    assert "stream_7" in viz.segments(data, format_flamegraph=str)
    assert "only_after" in viz.compare([], data["segments"], format_flamegraph=str)
    assert "only_after" in capsys.readouterr().out
    for html in (viz.segment_plot(data), viz.trace_plot(data), viz.trace_plot(data, plot_segments=True)):
        assert "snapshot.pickle" in html
    assert "snapshot.pickle" in viz.trace_plot(data, filter_freed=True)


class Runs:
    """Would run code when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code ran",))


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(Runs()),
        pickle.dumps({"segments": [Runs()]}),
        pickle.dumps({"segments": [], "path": Path("x")}),
        pickle.dumps({"segments": [], "f": parse_snapshot}),
        b"cos\nsystem\n(S'true'\ntR.",
        b"(ios\nsystem\n.",
        b"\x80\x02\x82\x01.",  # an extension code
        b"\x80\x02U\x01aQ.",  # a reference out of the file
        b"\x80\x04.",
        b"",
        b"PK\x03\x04",
        pickle.dumps(recorded)[:20],
        pickle.dumps([1, 2, 3])[:-3],
    ],
)
def test_nothing_in_the_file_runs(data: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.pickle"
    path.write_bytes(data)
    with pytest.raises(UsageError, match="is not a memory snapshot"):
        read_snapshot(path)
    assert capsys.readouterr().out == ""


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_snapshot(tmp_path / "none.pickle")


def parts(data: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in nested dicts and lists."""
    found: list[tuple[Any, Any]] = []
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        found.append((data, key))
        found += parts(value)
    return found


@given(st.data())
def test_any_damage_is_one_sentence(data: st.DataObject) -> None:
    damaged = pickle.loads(pickle.dumps(snapshot_dict(recorded())))
    container, key = data.draw(st.sampled_from(parts(damaged)))
    junk = st.sampled_from([None, -1, 2**70, "x", [], {}, [1], {"a": 1}, 1.5, b"x"])
    if data.draw(st.booleans()):
        del container[key]
    else:
        container[key] = data.draw(junk)
    # Whatever else it raised would be a crash for the user.
    with contextlib.suppress(UsageError):
        assert isinstance(parse_snapshot(damaged), Snapshot)


@pytest.mark.parametrize(
    "data",
    [
        3,
        {},
        {"segments": 3},
        {"segments": [3]},
        {"segments": [{"address": 0, "total_size": 512, "blocks": [3]}]},
        {"segments": [{"address": 0, "total_size": 512, "blocks": [{"size": 512, "state": "odd"}]}]},
        {"segments": [{"address": 0, "total_size": 512, "blocks": [{"size": 1024, "state": "inactive"}]}]},
        {"segments": [{"address": -5, "total_size": 0, "blocks": []}]},
        {"segments": OLD_LIST * 2},
        {"segments": [], "device_traces": [3]},
        {"segments": [], "device_traces": [[3]]},
        {"segments": [], "device_traces": [[{"action": "jump", "addr": 1, "size": 1}]]},
        {"segments": [], "device_traces": [[{"action": "alloc", "addr": "1", "size": 1}]]},
    ],
)
def test_other_forms_are_refused(data: object) -> None:
    with pytest.raises(UsageError):
        parse_snapshot(data)


def test_records_must_fit_together() -> None:
    block = BlockRecord(address=512, size_bytes=512, requested_bytes=1, state=FREE)
    whole = {"device": 0, "stream": 0, "is_small": True, "is_expandable": False, "pool_id": (0, 0)}
    SegmentRecord(address=512, size_bytes=512, blocks=(block,), **whole)  # type: ignore[arg-type]
    for address, size in ((0, 1024), (512, 1024)):
        with pytest.raises(UsageError):
            SegmentRecord(address=address, size_bytes=size, blocks=(block,), **whole)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        BlockRecord(address=512, size_bytes=512, requested_bytes=1, state=3)


def test_a_recording_says_what_happened_in_order() -> None:
    recorder = Recorder(capacity_bytes=30 * MiB)
    block = recorder.malloc(12 * MiB, frames=FRAMES)
    recorder.free(block)
    recorder.malloc(20 * MiB)
    base = block.address
    assert [(event.action, event.address, event.size_bytes) for event in recorder.events] == [
        ("segment_alloc", base, 12 * MiB),
        ("alloc", base, 12 * MiB),
        ("free_requested", base, 12 * MiB),
        ("free_completed", base, 12 * MiB),
        ("segment_free", base, 12 * MiB),
        ("segment_alloc", base - 20 * MiB, 20 * MiB),
        ("alloc", base - 20 * MiB, 20 * MiB),
    ]
    assert recorder.events[1] == TraceEvent("alloc", base, 12 * MiB, 0, (0, 0), 1, FRAMES)
