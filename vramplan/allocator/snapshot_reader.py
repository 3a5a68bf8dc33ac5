"""Reads the pickled snapshots of PyTorch, new and old, without running anything that is in them.

Forms, by age: a list of segments (`torch.cuda.memory_snapshot()`, blocks with a `history`); a dict of segments and
traces; the same with settings. Source: torch 2.13.0, torch/cuda/memory.py (`_snapshot`) and torch/cuda/_memory_viz.py
(`_read`, `_block_extra_legacy`).
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from vramplan.allocator.blocks import ALLOCATED, DEFAULT_POOL, FREE, PENDING, PoolId
from vramplan.allocator.config import AllocatorConfig
from vramplan.allocator.sizes import NUM_DIVISION_INTERVALS
from vramplan.allocator.snapshot import (
    ACTIONS,
    FREE_COMPLETED,
    FREE_REQUESTED,
    OOM,
    BlockRecord,
    Frame,
    SegmentRecord,
    Snapshot,
    TraceEvent,
)
from vramplan.errors import UsageError, VramplanError

_STATES = {
    "active_allocated": ALLOCATED,
    "active_pending_free": PENDING,
    "active_awaiting_free": PENDING,
    "inactive": FREE,
}
_HINT = "write one with torch.cuda.memory._dump_snapshot(FILE)"


def read_snapshot(path: Path) -> Snapshot:
    """The snapshot in a file.

    Raises:
        UsageError: the file cannot be read, is not a pickle of plain data, or is not a snapshot.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return parse_snapshot(load_plain(data))
    except UsageError as error:
        raise UsageError(f"{path} is not a memory snapshot: {error.message}", hint=_HINT) from error


def load_plain(data: bytes) -> object:
    """Unpickles dicts, lists, tuples, strings and numbers; anything that would import or call is refused.

    Raises:
        UsageError: the bytes are not such a pickle.
    """
    try:
        return _PlainUnpickler(io.BytesIO(data)).load()
    except VramplanError:
        raise
    # A damaged pickle makes the unpickler raise nearly anything.
    except Exception as error:
        raise UsageError(f"it is not a pickle ({type(error).__name__})") from error


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> NoReturn:
        raise UsageError(f"it asks for {module_name}.{global_name}, and a snapshot holds plain data only")


def parse_snapshot(data: object) -> Snapshot:
    """A snapshot from what `torch.cuda.memory._snapshot()` or `memory_snapshot()` returned.

    Raises:
        UsageError: it has another form.
    """
    if isinstance(data, list):
        data = {"segments": data}
    if not isinstance(data, dict):
        raise UsageError(f"it holds a {type(data).__name__}, not a dict or a list of segments")
    frames = _FrameCache()
    segments = [_segment(item, frames) for item in _items(data, "segments")]
    segments.sort(key=lambda segment: (segment.device, segment.address))
    for low, high in pairwise(segments):
        if low.device == high.device and high.address < low.end:
            raise UsageError(f"the segments at {low.address:#x} and {high.address:#x} overlap")
    traces = _items(data, "device_traces") if "device_traces" in data else []
    settings = data.get("allocator_settings")
    return Snapshot(
        segments=tuple(segments),
        traces=tuple(tuple(_trace(trace, frames)) for trace in traces),
        config=_config(settings) if isinstance(settings, dict) else None,
    )


class _FrameCache:
    """PyTorch shares one list of frames between all blocks and events of a stack; so do we."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Frame, ...]] = {}

    def get(self, owner: Mapping[str, Any]) -> tuple[Frame, ...]:
        raw = owner.get("frames")
        if not isinstance(raw, list) or not raw:
            return ()
        found = self._seen.get(id(raw))
        if found is None:
            found = self._seen[id(raw)] = tuple(
                Frame(str(frame.get("name")), str(frame.get("filename")), _int(frame, "line", default=0))
                for frame in raw
                if isinstance(frame, dict)
            )
        return found


def _items(data: Mapping[str, Any], key: str) -> list[Any]:
    value = data.get(key)
    if not isinstance(value, list | tuple):
        raise UsageError(f"it has no list of {key}")
    return list(value)


def _int(data: Mapping[str, Any], *keys: str, default: int | None = None) -> int:
    for key in keys:
        value = data.get(key)
        if isinstance(value, int) and 0 <= value < 1 << 63:
            return value
        if value is not None:
            raise UsageError(f"{key} is {value!r}, not a size or an address")
    if default is None:
        raise UsageError(f"{keys[0]} is missing")
    return default


def _pool_id(value: object) -> PoolId | None:
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(part, int) for part in value):
        return (value[0], value[1])
    return None


def _segment(data: object, frames: _FrameCache) -> SegmentRecord:
    if not isinstance(data, dict):
        raise UsageError(f"a segment is a {type(data).__name__}, not a dict")
    address = at = _int(data, "address")
    blocks = []
    for item in _items(data, "blocks"):
        block = _block(item, at, frames)
        blocks.append(block)
        at = block.end
    return SegmentRecord(
        device=_int(data, "device", default=0),
        address=address,
        size_bytes=_int(data, "total_size"),
        stream=_int(data, "stream", default=0),
        is_small=data.get("segment_type") == "small",
        is_expandable=bool(data.get("is_expandable", False)),
        pool_id=_pool_id(data.get("segment_pool_id")) or DEFAULT_POOL,
        blocks=tuple(blocks),
    )


def _block(data: object, address: int, frames: _FrameCache) -> BlockRecord:
    """A block; old forms have no address and keep the request and the stack in a `history`, newest first."""
    if not isinstance(data, dict):
        raise UsageError(f"a block is a {type(data).__name__}, not a dict")
    state = data.get("state")
    if not isinstance(state, str) or state not in _STATES:
        raise UsageError(f"a block has the unknown state {state!r}")
    size = _int(data, "size")
    history = data.get("history")
    newest = history[0] if isinstance(history, list) and history and isinstance(history[0], dict) else data
    return BlockRecord(
        address=address,
        size_bytes=size,
        # Without a record of the request the whole block counts as asked for, as in torch/cuda/_memory_viz.py.
        requested_bytes=_int(data if newest is data else newest, "requested_size", "real_size", default=size),
        state=_STATES[state],
        frames=frames.get(newest),
    )


def _trace(trace: object, frames: _FrameCache) -> list[TraceEvent]:
    if not isinstance(trace, list | tuple):
        raise UsageError(f"a trace is a {type(trace).__name__}, not a list")
    events = []
    for item in trace:
        if not isinstance(item, dict):
            raise UsageError(f"an event is a {type(item).__name__}, not a dict")
        action = item.get("action")
        # Before torch 2.0 a free was one event.
        actions = (FREE_REQUESTED, FREE_COMPLETED) if action == "free" else (action,)
        for name in actions:
            if name not in ACTIONS:
                raise UsageError(f"an event has the unknown action {action!r}")
            events.append(
                TraceEvent(
                    name,
                    _int(item, "device_free" if name == OOM else "addr", default=0 if name == OOM else None),
                    _int(item, "size"),
                    _int(item, "stream", default=0),
                    _pool_id(item.get("pool_id", item.get("segment_pool_id"))),
                    _int(item, "time_us", default=0),
                    frames.get(item),
                )
            )
    return events


def _config(settings: Mapping[str, Any]) -> AllocatorConfig:
    """The settings; the parsed ones count where they differ from the string, which may be from an earlier call."""
    text = settings.get("PYTORCH_CUDA_ALLOC_CONF", settings.get("PYTORCH_ALLOC_CONF", ""))
    try:
        written = AllocatorConfig.parse(text if isinstance(text, str) else "")
    except VramplanError:
        written = AllocatorConfig()  # a key of another version of torch: the parsed settings below are what counts
    split = settings.get("max_split_size", -1)
    divisions = settings.get("roundup_power2_divisions")
    threshold = settings.get("garbage_collection_threshold", 0.0)
    return AllocatorConfig(
        max_split_size_bytes=split if isinstance(split, int) and split > 0 else None,
        max_non_split_rounding_bytes=written.max_non_split_rounding_bytes,
        roundup_power2_divisions=(
            tuple(_int(divisions, str(1 << index), default=0) for index in range(NUM_DIVISION_INTERVALS))
            if isinstance(divisions, dict)
            else written.roundup_power2_divisions
        ),
        garbage_collection_threshold=float(threshold) if isinstance(threshold, int | float) else 0.0,
        expandable_segments=bool(settings.get("expandable_segments", False)),
        large_segment_size_bytes=written.large_segment_size_bytes,
        per_process_memory_fraction=written.per_process_memory_fraction,
    )
