"""The hot entry: a flat list of ints in, peaks out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import length_hint

from vramplan.allocator.blocks import Block
from vramplan.allocator.caching import DEFAULT, CachingAllocator
from vramplan.allocator.config import AllocatorConfig
from vramplan.allocator.oom import OutOfMemory
from vramplan.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayResult:
    """What a run of events came to.

    Attributes:
        peak_allocated_bytes: the most that live blocks held.
        reserved_at_peak_bytes: what segments held when it was first reached.
        peak_reserved_bytes: the most that segments held.
        final_allocated_bytes: in live blocks after the last event.
        final_reserved_bytes: in segments after the last event.
        num_retries: how often the cache was given back to make room.
    """

    peak_allocated_bytes: int
    reserved_at_peak_bytes: int
    peak_reserved_bytes: int
    final_allocated_bytes: int
    final_reserved_bytes: int
    num_retries: int


def replay(events: Sequence[int], config: AllocatorConfig = DEFAULT, capacity_bytes: int | None = None) -> ReplayResult:
    """Runs events of one stream through a fresh allocator.

    Args:
        events: `n` > 0 allocates n bytes, and the block gets the next serial number, from 0; `-(k + 1)` frees block k.
        config: the allocator's settings.
        capacity_bytes: what the device has for the allocator; None: without end.

    Raises:
        OutOfMemory: an allocation did not fit; its `event_index` says which.
        UsageError: a zero, or a free of a block that is not allocated.
    """
    allocator = CachingAllocator(config, capacity_bytes)
    malloc, free = allocator.malloc, allocator.free
    blocks: list[Block | None] = []
    append = blocks.append
    rest = iter(events)
    try:
        for event in rest:
            if event > 0:
                append(malloc(event))
                continue
            serial = ~event  # of -(k + 1) that is k; of 0 it is -1
            block = blocks[serial] if 0 <= serial < len(blocks) else None
            if block is None:
                index = len(events) - length_hint(rest) - 1
                raise UsageError(f"event {index}, {event}, frees no block", hint="-(k + 1) frees block k, once")
            blocks[serial] = None
            free(block)
    except OutOfMemory as error:
        error.event_index = len(events) - length_hint(rest) - 1
        raise
    return ReplayResult(
        peak_allocated_bytes=allocator.peak_allocated_bytes,
        reserved_at_peak_bytes=allocator.reserved_at_peak_bytes,
        peak_reserved_bytes=allocator.peak_reserved_bytes,
        final_allocated_bytes=allocator.allocated_bytes,
        final_reserved_bytes=allocator.reserved_bytes,
        num_retries=allocator.num_retries,
    )
