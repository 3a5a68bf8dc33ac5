"""One pass over a recorded trace: each event done in the model, each allocation compared with its address."""

from __future__ import annotations

from vramplan.allocator import expandable, release
from vramplan.allocator.blocks import ALLOCATED, DEFAULT_POOL, FREE, NO_LIMIT, PENDING, Block
from vramplan.allocator.caching import CachingAllocator
from vramplan.allocator.config import NO_DIVISIONS, AllocatorConfig
from vramplan.allocator.layout import Layout
from vramplan.allocator.owners import Owners
from vramplan.allocator.program import Program
from vramplan.allocator.rebuild import Start
from vramplan.allocator.recorded import RecordedMemory
from vramplan.allocator.sizes import MIN_BLOCK_BYTES, SMALL_BYTES, block_bytes
from vramplan.allocator.snapshot import (
    ALLOC,
    FREE_COMPLETED,
    FREE_REQUESTED,
    SEGMENT_ALLOC,
    SEGMENT_FREE,
    SEGMENT_MAP,
    SEGMENT_UNMAP,
    TraceEvent,
)
from vramplan.allocator.state import chain, restore

_GROWTH = (SEGMENT_ALLOC, SEGMENT_MAP)
_SHRINKING = (SEGMENT_FREE, SEGMENT_UNMAP)


class TraceRun:
    """The model on its way through a trace.

    Args:
        config: the recorded settings.
        start: the state before the first event.
        layout: of the recorded expandable segments.
        owners: of the recorded addresses.
        first_free_address: from here on nothing was recorded.

    Attributes:
        memory: the recorded device.
        allocator: the model.
        program: what the trace asks for, without addresses.
        recorded_peak_bytes: the most that the real allocator had reserved.
        num_allocations: so far.
        num_at_recorded_address: of them.
        num_growths: recorded segments and mapped ranges.
        first_difference: the first allocation that is not at its address, in words; None while there is none.
        correction: a block of the start that must have been larger, and by how much at least, when the first
            allocation that is not at its address shows this; else None.
    """

    def __init__(
        self, config: AllocatorConfig, start: Start, layout: Layout, owners: Owners, *, first_free_address: int
    ) -> None:
        """Restores the state in which the trace began."""
        self.memory = RecordedMemory(first_free_address, layout.address_space_bytes)
        self.allocator = CachingAllocator(config, device=self.memory)
        self.program = Program()
        self.num_allocations = self.num_at_recorded_address = self.num_growths = 0
        self.first_difference: str | None = None
        self.correction: tuple[int, int] | None = None
        self._num_events = 0
        self._owners = owners
        self._unsure = set(start.unsure)
        self._released = False
        self._blocks = restore(self.allocator, start.segments, layout)
        for record in start.segments:
            if record.pool_id != DEFAULT_POOL and record.is_expandable != config.expandable_segments:
                self.allocator.expand(record.owner, record.is_expandable)
        for head in self.allocator.heads.values():
            self.memory.occupy(head.address, sum(block.size for block in chain(head)))
        for segment in self.allocator.expandable_segments:
            self.memory.occupy_reserved(segment.address, segment.size)
        self._recorded_bytes = self.recorded_peak_bytes = self.allocator.reserved_bytes
        for address, block in sorted(self._blocks.items()):
            self.program.alloc(address, block.requested_bytes, block.pool.stream)
            if block.state == PENDING:
                self.program.request_free(address)

    def step(self, event: TraceEvent) -> None:
        """Does what the event says."""
        self._num_events += 1
        action = event.action
        if self._released and action not in _SHRINKING:
            self._end_release()
        if action == ALLOC:
            self._alloc(event)
        elif action in _GROWTH:
            self.num_growths += 1
            self._count(event.size_bytes)
            self.memory.expect(event)
        elif action in _SHRINKING:
            self._released = True
            self._count(-event.size_bytes)
            self._release(event)
        elif action == FREE_REQUESTED:
            block = self._blocks.get(event.address)
            if block is not None and block.state == ALLOCATED:
                self.allocator.request_free(block)
                self.program.request_free(event.address)
        elif action == FREE_COMPLETED:
            self._free(event)

    def finish(self) -> None:
        """Closes what the last event left open."""
        if self._released:
            self._end_release()
        self.memory.skip()

    def _alloc(self, event: TraceEvent) -> None:
        if self.num_allocations == 0:
            self._hide_new_segment(event)
        self._follow_setting(event)
        self._free(event)  # of a block whose free was not recorded: its address is in use again
        owner = self._owners.owner_of(event)
        block = self.allocator.malloc(event.size_bytes, owner)
        self.memory.skip()
        if block.address == event.address:
            self.num_at_recorded_address += 1
        elif self.first_difference is None:
            self.first_difference = (
                f"event {self._num_events}: {event.size_bytes} bytes went to {event.address:#x}, "
                f"in the model to {block.address:#x}"
            )
            self.correction = self._explain(block)
        self._blocks[event.address] = block
        self.num_allocations += 1
        self.program.alloc(event.address, event.size_bytes, owner)

    def _follow_setting(self, event: TraceEvent) -> None:
        """Turns expandable segments on or off where the growth for this allocation shows that they were.

        For all streams, but where a memory pool has a way of its own: expandable segments never serve one that
        brings its allocator along.
        """
        is_expandable = self.memory.grows_by_mapping
        if is_expandable is None:
            return
        owner = self._owners.owner_of(event)
        pools = self.allocator.pools_of(owner)
        if pools[0].is_expandable == is_expandable:
            return
        others = (pool.stream for pool in list(self.allocator.pools()) if not pool.is_private)
        for stream in [owner] if pools[0].is_private else [owner, *others]:
            self.allocator.expand(stream, is_expandable)

    def _free(self, event: TraceEvent) -> None:
        block = self._blocks.pop(event.address, None)
        if block is None:
            return
        self._unsure.discard(event.address)
        # Recording can leave the requests out (`skip_actions`); then this is the whole of it.
        (self.allocator.free if block.state == ALLOCATED else self.allocator.complete_free)(block)
        self.program.free(event.address)

    def _explain(self, chosen: Block) -> tuple[int, int] | None:
        """How much larger the block before the chosen one must have been, for the chosen one to be too small."""
        before, after = chosen.prev, chosen.next
        if before is None or before.address not in self._unsure:
            return None
        room = chosen.size + (after.size if after is not None and after.state == FREE else 0)
        divisions = self.allocator.config.roundup_power2_divisions
        wanted = block_bytes(chosen.requested_bytes, None if divisions == NO_DIVISIONS else divisions)
        num_bytes = room - wanted + MIN_BLOCK_BYTES
        slack = before.size + num_bytes - before.requested_bytes
        return (before.address, num_bytes) if slack <= SMALL_BYTES + MIN_BLOCK_BYTES else None

    def _hide_new_segment(self, event: TraceEvent) -> None:
        """Takes the segment out of the cache that was got for the first allocation, if the trace begins in between.

        Under `max_split_size` the cache never serves a smaller request from a segment above the limit, so a segment
        that did was new.
        """
        head = self.allocator.heads.get(event.address)
        limit = self.allocator.max_split_size
        if head is None or limit == NO_LIMIT or head.state != FREE or not head.is_whole_segment:
            return
        if event.size_bytes < limit <= head.size:
            release.release_block(self.allocator, head)
            self.memory.expect(event._replace(action=SEGMENT_ALLOC, size_bytes=head.size))
            self.num_growths += 1

    def _count(self, num_bytes: int) -> None:
        self._recorded_bytes += num_bytes
        self.recorded_peak_bytes = max(self.recorded_peak_bytes, self._recorded_bytes)

    def _release(self, event: TraceEvent) -> None:
        """Gives back the one segment or the pages of the event, where they are free in the model too."""
        if event.action == SEGMENT_FREE:
            head = self.allocator.heads.get(event.address)
            if head is not None and head.state == FREE and head.is_whole_segment:
                release.release_block(self.allocator, head)
            return
        for pool in self.allocator.pools():
            for block in pool.blocks:
                if block.expandable is not None and block.address <= event.address < block.address + block.size:
                    expandable.unmap(self.allocator, block)
                    return

    def _end_release(self) -> None:
        """A release that left nothing to release was of the whole cache, and would have been so in any setting."""
        self._released = False
        if not release.is_anything_releasable(self.allocator):
            self.program.empty_cache()
