"""What `torch.cuda.memory._snapshot()` records, as types of our own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from vramplan.allocator.blocks import ALLOCATED, DEFAULT_POOL, FREE, PENDING, PoolId, Stream
from vramplan.allocator.config import AllocatorConfig
from vramplan.errors import UsageError

ALLOC = "alloc"
FREE_REQUESTED = "free_requested"
FREE_COMPLETED = "free_completed"
SEGMENT_ALLOC = "segment_alloc"
SEGMENT_FREE = "segment_free"
SEGMENT_MAP = "segment_map"
SEGMENT_UNMAP = "segment_unmap"
OOM = "oom"
SNAPSHOT = "snapshot"
ACTIONS = (
    ALLOC,
    FREE_REQUESTED,
    FREE_COMPLETED,
    SEGMENT_ALLOC,
    SEGMENT_FREE,
    SEGMENT_MAP,
    SEGMENT_UNMAP,
    OOM,
    SNAPSHOT,
)
"""`TraceEntry::Action` in torch 2.13.0, c10/core/CachingDeviceAllocator.h, as the snapshot spells them."""


class Frame(NamedTuple):
    """One line of a stack, innermost first in a tuple of them."""

    name: str
    filename: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRecord:
    """A block of a segment; `state` is FREE, ALLOCATED or PENDING."""

    address: int
    size_bytes: int
    requested_bytes: int
    state: int
    frames: tuple[Frame, ...] = ()

    def __post_init__(self) -> None:
        if self.state not in (FREE, ALLOCATED, PENDING):
            raise UsageError(f"{self.state} is not the state of a recorded block")

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.address + self.size_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRecord:
    """A segment, or a contiguous mapped range of an expandable one; its blocks cover it without a gap."""

    device: int
    address: int
    size_bytes: int
    stream: int
    is_small: bool
    is_expandable: bool
    pool_id: PoolId
    blocks: tuple[BlockRecord, ...]

    def __post_init__(self) -> None:
        at = self.address
        for block in self.blocks:
            if block.address != at:
                raise UsageError(f"the segment at {self.address:#x} has a gap before {block.address:#x}")
            at = block.end
        if at != self.end:
            raise UsageError(f"the blocks of the segment at {self.address:#x} do not add up to its size")

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.address + self.size_bytes

    @property
    def owner(self) -> Stream:
        """The stream and memory pool it serves."""
        return self.stream if self.pool_id == DEFAULT_POOL else (self.stream, self.pool_id)

    def bytes_in(self, *states: int) -> int:
        """Bytes of its blocks in one of the states."""
        return sum(block.size_bytes for block in self.blocks if block.state in states)


class TraceEvent(NamedTuple):
    """One action of the allocator; a tuple, because a trace has tens of thousands.

    Attributes:
        action: one of `ACTIONS`.
        address: of the block or segment; of an `oom`, the bytes that the device had left.
        size_bytes: as requested for a block, whole for a segment.
        stream: the CUDA stream.
        pool_id: the memory pool, or None where the version of torch did not record it.
        time_us: microseconds since 1970, or 0 where it was not recorded.
        frames: the stack, innermost first.
    """

    action: str
    address: int
    size_bytes: int
    stream: int = 0
    pool_id: PoolId | None = None
    time_us: int = 0
    frames: tuple[Frame, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The segments at one moment, and what led there.

    Attributes:
        segments: of all devices, by device and address.
        traces: one per device, the oldest event first; empty where no history was recorded.
        config: the allocator's settings, or None where the version of torch did not record them.
    """

    segments: tuple[SegmentRecord, ...]
    traces: tuple[tuple[TraceEvent, ...], ...] = ()
    config: AllocatorConfig | None = None

    @property
    def devices(self) -> tuple[int, ...]:
        """The devices with a segment or an event."""
        traced = {index for index, trace in enumerate(self.traces) if trace}
        return tuple(sorted(traced | {segment.device for segment in self.segments}))

    def trace_of(self, device: int) -> tuple[TraceEvent, ...]:
        """The events of a device; none where nothing was recorded."""
        return self.traces[device] if device < len(self.traces) else ()

    def segments_of(self, device: int) -> tuple[SegmentRecord, ...]:
        """The segments of a device, by address."""
        return tuple(segment for segment in self.segments if segment.device == device)
