"""Runs the model and records what it does, as `torch.cuda.memory._record_memory_history()` does for the real one."""

from __future__ import annotations

from vramplan.allocator.blocks import DEFAULT_POOL, Block, Stream
from vramplan.allocator.caching import DEFAULT, CachingAllocator
from vramplan.allocator.config import AllocatorConfig
from vramplan.allocator.device import DeviceMemory
from vramplan.allocator.oom import OutOfMemory
from vramplan.allocator.snapshot import (
    ALLOC,
    FREE_COMPLETED,
    FREE_REQUESTED,
    OOM,
    SEGMENT_ALLOC,
    SEGMENT_FREE,
    SEGMENT_MAP,
    SEGMENT_UNMAP,
    Frame,
    Snapshot,
    TraceEvent,
)
from vramplan.allocator.state import segments_of


class Recorder:
    """An allocator with a history.

    Args:
        config: the allocator's settings.
        capacity_bytes: what the device has for it; None: without end.

    Attributes:
        allocator: the model itself, for its counters; ask and free through the recorder.
        events: what happened so far, the oldest first. `time_us` counts events: the model has no clock.
    """

    def __init__(self, config: AllocatorConfig = DEFAULT, capacity_bytes: int | None = None) -> None:
        """Starts with nothing reserved."""
        self.events: list[TraceEvent] = []
        self._memory = _NotedMemory(capacity_bytes, self)
        self.allocator = CachingAllocator(config, device=self._memory)
        self._frames: dict[int, tuple[Frame, ...]] = {}

    def malloc(self, num_bytes: int, stream: Stream = 0, frames: tuple[Frame, ...] = ()) -> Block:
        """As `CachingAllocator.malloc`; `frames` say what the block is for, innermost first."""
        try:
            block = self.allocator.malloc(num_bytes, stream)
        except OutOfMemory as error:
            # As in the real one, the size is rounded: the bytes that no segment could be found for.
            self.note(OOM, error.capacity_bytes - error.reserved_bytes, error.block_bytes, stream, frames)
            raise
        self._frames[block.address] = frames
        self.note(ALLOC, block.address, num_bytes, stream, frames)
        return block

    def free(self, block: Block) -> None:
        """As `CachingAllocator.free`."""
        self.request_free(block)
        self.complete_free(block)

    def request_free(self, block: Block) -> None:
        """As `CachingAllocator.request_free`."""
        self.allocator.request_free(block)
        self._note_block(FREE_REQUESTED, block)

    def complete_free(self, block: Block) -> None:
        """As `CachingAllocator.complete_free`."""
        self._note_block(FREE_COMPLETED, block)
        self._frames.pop(block.address, None)
        self.allocator.complete_free(block)

    def empty_cache(self) -> None:
        """As `CachingAllocator.empty_cache`."""
        self.allocator.empty_cache()

    def snapshot(self, device: int = 0) -> Snapshot:
        """The segments as they are now, with the whole history, as of the given device."""
        return Snapshot(
            segments=segments_of(self.allocator, device, self._frames),
            traces=(*((),) * device, tuple(self.events)),
            config=self.allocator.config,
        )

    def note(self, action: str, address: int, size: int, stream: Stream, frames: tuple[Frame, ...] = ()) -> None:
        """Writes an event down."""
        stream, pool_id = stream if isinstance(stream, tuple) else (stream, DEFAULT_POOL)
        self.events.append(TraceEvent(action, address, size, stream, pool_id, len(self.events), frames))

    def _note_block(self, action: str, block: Block) -> None:
        frames = self._frames.get(block.address, ())
        self.note(action, block.address, block.requested_bytes, block.pool.stream, frames)


class _NotedMemory(DeviceMemory):
    """Tells the recorder what the driver is asked for."""

    __slots__ = ("_recorder",)

    def __init__(self, capacity_bytes: int | None, recorder: Recorder) -> None:
        super().__init__(capacity_bytes)
        self._recorder = recorder

    def allocate(self, num_bytes: int, owner: Stream) -> int | None:
        address = super().allocate(num_bytes, owner)
        if address is not None:
            self._recorder.note(SEGMENT_ALLOC, address, num_bytes, owner)
        return address

    def free(self, address: int, num_bytes: int, owner: Stream) -> None:
        super().free(address, num_bytes, owner)
        self._recorder.note(SEGMENT_FREE, address, num_bytes, owner)

    def map(self, address: int, num_bytes: int, owner: Stream) -> bool:
        is_mapped = super().map(address, num_bytes, owner)
        if is_mapped:
            self._recorder.note(SEGMENT_MAP, address, num_bytes, owner)
        return is_mapped

    def unmap(self, address: int, num_bytes: int, owner: Stream) -> None:
        super().unmap(address, num_bytes, owner)
        self._recorder.note(SEGMENT_UNMAP, address, num_bytes, owner)
