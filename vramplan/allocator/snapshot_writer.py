"""Writes snapshots that PyTorch's own viewer opens: `torch.cuda._memory_viz` and pytorch.org/memory_viz.

The viewer in the browser has an unpickler of its own. It knows protocols 2 to 4, ints of up to 8 bytes, strings,
lists, dicts and tuples (torch/utils/viz/MemoryViz.js, `unpickleData`), so nothing else is written.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from vramplan.allocator.blocks import ALLOCATED, PENDING
from vramplan.allocator.config import AllocatorConfig
from vramplan.allocator.snapshot import OOM, BlockRecord, Frame, SegmentRecord, Snapshot, TraceEvent

_STATES = {ALLOCATED: "active_allocated", PENDING: "active_pending_free"}
_PROTOCOL = 4


def write_snapshot(snapshot: Snapshot, path: Path) -> None:
    """Writes a snapshot as `torch.cuda.memory._dump_snapshot` would."""
    path.write_bytes(pickle.dumps(snapshot_dict(snapshot), protocol=_PROTOCOL))


def snapshot_dict(snapshot: Snapshot) -> dict[str, Any]:
    """The snapshot in the form of `torch.cuda.memory._snapshot()`."""
    stacks: dict[tuple[Frame, ...], list[dict[str, Any]]] = {}
    num_devices = max((*(device + 1 for device in snapshot.devices), len(snapshot.traces)), default=1)
    return {
        "segments": [_segment(segment, stacks) for segment in snapshot.segments],
        # The viewer looks the events of a device up by its number: every device has a list.
        "device_traces": [
            [_event(event, stacks) for event in snapshot.trace_of(device)] for device in range(num_devices)
        ],
        "allocator_settings": _settings(snapshot.config or AllocatorConfig()),
        "external_annotations": [],
    }


def _frames(frames: tuple[Frame, ...], stacks: dict[tuple[Frame, ...], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One list for all that share a stack: pickle then stores it once."""
    if frames not in stacks:
        stacks[frames] = [{"name": frame.name, "filename": frame.filename, "line": frame.line} for frame in frames]
    return stacks[frames]


def _segment(segment: SegmentRecord, stacks: dict[tuple[Frame, ...], list[dict[str, Any]]]) -> dict[str, Any]:
    active = [block for block in segment.blocks if block.state in (ALLOCATED, PENDING)]
    return {
        "device": segment.device,
        "address": segment.address,
        "total_size": segment.size_bytes,
        "allocated_size": segment.bytes_in(ALLOCATED),
        "active_size": segment.bytes_in(ALLOCATED, PENDING),
        "requested_size": sum(block.requested_bytes for block in active),
        "stream": segment.stream,
        "segment_type": "small" if segment.is_small else "large",
        "segment_pool_id": segment.pool_id,
        "is_expandable": segment.is_expandable,
        "frames": [],
        "blocks": [_block(block, stacks) for block in segment.blocks],
    }


def _block(block: BlockRecord, stacks: dict[tuple[Frame, ...], list[dict[str, Any]]]) -> dict[str, Any]:
    return {
        "address": block.address,
        "size": block.size_bytes,
        "requested_size": block.requested_bytes,
        "state": _STATES.get(block.state, "inactive"),
        "frames": _frames(block.frames, stacks),
    }


def _event(event: TraceEvent, stacks: dict[tuple[Frame, ...], list[dict[str, Any]]]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "action": event.action,
        "device_free" if event.action == OOM else "addr": event.address,
        "size": event.size_bytes,
        "stream": event.stream,
        "time_us": event.time_us,
        "compile_context": "N/A",
        "user_metadata": "",
        "frames": _frames(event.frames, stacks),
    }
    if event.pool_id is not None:
        entry["pool_id"] = event.pool_id
    return entry


def _settings(config: AllocatorConfig) -> dict[str, Any]:
    limit = config.max_split_size_bytes
    return {
        "PYTORCH_CUDA_ALLOC_CONF": config.format(),
        "max_split_size": -1 if limit is None else limit,
        "garbage_collection_threshold": config.garbage_collection_threshold,
        "expandable_segments": config.expandable_segments,
        "pinned_num_register_threads": 1,
        "release_lock_on_cudamalloc": False,
        "pinned_use_cuda_host_register": False,
        "graph_capture_record_stream_reuse": False,
        "roundup_power2_divisions": {
            str(1 << index): steps for index, steps in enumerate(config.roundup_power2_divisions)
        },
    }
