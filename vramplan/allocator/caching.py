"""PyTorch's CUDA caching allocator: which bytes it reserves, and where each request goes.

A model of `DeviceCachingAllocator` in c10/cuda/CUDACachingAllocator.cpp (read in the revisions of torch 2.4 to 2.13;
the rules for placing blocks are the same in all of them). Locks, stack traces and the capture of CUDA graphs are
left out; a memory pool of its own is a stream of its own here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from vramplan.allocator import expandable, release
from vramplan.allocator.blocks import (
    ADDRESS_BITS,
    ALLOCATED,
    FREE,
    NO_LIMIT,
    PENDING,
    Block,
    Pool,
    Stream,
)
from vramplan.allocator.config import NO_DIVISIONS, AllocatorConfig
from vramplan.allocator.device import DeviceMemory
from vramplan.allocator.oom import OutOfMemory
from vramplan.allocator.search import find_free
from vramplan.allocator.sizes import SMALL_BYTES, SMALL_SEGMENT_BYTES, block_bytes, segment_bytes
from vramplan.errors import UsageError

DEFAULT = AllocatorConfig()


class CachingAllocator:
    """One device's allocator.

    Args:
        config: its settings.
        capacity_bytes: what the device has for it; None: without end, and it never runs out of memory.
        device: where segments come from, instead of falling addresses; its own capacity then holds.

    Attributes:
        allocated_bytes: in blocks that the program holds.
        active_bytes: the same, and blocks that another stream still uses.
        requested_bytes: what the program asked for, before rounding, of the active blocks.
        reserved_bytes: in segments, and so out of the device's memory.
        peak_allocated_bytes: the most that `allocated_bytes` has been; likewise the other peaks.
        reserved_at_peak_bytes: `reserved_bytes` when `allocated_bytes` first reached its peak.
        num_segments: segments that are not expandable, as in `torch.cuda.memory_stats()["segment.all.current"]`.
        num_retries: how often the whole cache was given back to make room (`num_alloc_retries`).
    """

    __slots__ = (
        "_divisions",
        "_plain",
        "_pools",
        "active_bytes",
        "allocated_bytes",
        "allowed_bytes",
        "config",
        "device",
        "expandable_segments",
        "gc_above_bytes",
        "heads",
        "max_non_split_rounding",
        "max_split_size",
        "num_retries",
        "peak_active_bytes",
        "peak_allocated_bytes",
        "peak_requested_bytes",
        "peak_reserved_bytes",
        "requested_bytes",
        "reserved_at_peak_bytes",
        "reserved_bytes",
    )

    def __init__(
        self,
        config: AllocatorConfig = DEFAULT,
        capacity_bytes: int | None = None,
        *,
        device: DeviceMemory | None = None,
    ) -> None:
        self.config = config
        self.device = DeviceMemory(capacity_bytes) if device is None else device
        self.heads: dict[int, Block] = {}
        self.expandable_segments: list[expandable.ExpandableSegment] = []
        self.max_split_size = config.max_split_size_bytes or NO_LIMIT
        self.max_non_split_rounding = config.max_non_split_rounding_bytes or config.large_segment_size_bytes
        self.allowed_bytes: int | None = None
        self.gc_above_bytes: int | None = None
        total = self.device.capacity_bytes
        if config.per_process_memory_fraction < 1 and total is not None:
            self.allowed_bytes = int(config.per_process_memory_fraction * total)
            if config.garbage_collection_threshold:
                self.gc_above_bytes = int(config.garbage_collection_threshold * self.allowed_bytes)
        self._divisions = None if config.roundup_power2_divisions == NO_DIVISIONS else config.roundup_power2_divisions
        self._plain = not config.expandable_segments and self.max_split_size == NO_LIMIT and self.gc_above_bytes is None
        self._pools: dict[Stream, tuple[Pool, Pool]] = {}
        self.allocated_bytes = self.active_bytes = self.requested_bytes = self.reserved_bytes = 0
        self.peak_allocated_bytes = self.peak_active_bytes = 0
        self.peak_requested_bytes = self.peak_reserved_bytes = self.reserved_at_peak_bytes = 0
        self.num_retries = 0

    @property
    def num_segments(self) -> int:
        """Segments got from the driver whole."""
        return len(self.heads)

    def malloc(self, num_bytes: int, stream: Stream = 0) -> Block:
        """A block for `num_bytes` (more than zero), cut from the cache or from a new segment.

        Args:
            num_bytes: the request.
            stream: where it will be used; blocks of one stream or memory pool are never given to another.

        Raises:
            OutOfMemory: there is no room, even with the whole cache given back.
        """
        if num_bytes <= 0:
            raise UsageError(f"{num_bytes} bytes cannot be allocated", hint="PyTorch never asks for an empty block")
        size = (num_bytes + 511) & -512 if self._divisions is None else block_bytes(num_bytes, self._divisions)
        pools = self._pools.get(stream)
        if pools is None:
            pools = self.pools_of(stream)
        pool = pools[size > SMALL_BYTES]
        keys = pool.keys
        index = bisect_left(keys, size << ADDRESS_BITS)
        if not self._plain:
            index = find_free(self, pool, size, index)
        if index < len(keys):
            del keys[index]
            block = pool.blocks.pop(index)
        else:
            block = self._grow(pool, num_bytes, size)
        remainder = block.size - size
        if remainder >= pool.min_remainder and size < pool.split_below:
            after = block.next
            address = block.address + size
            rest = Block(address, remainder, pool, block, after, block.expandable)
            if after is not None:
                after.prev = rest
            block.next = rest
            block.size = size
            key = remainder << ADDRESS_BITS | address
            index = bisect_left(keys, key)
            keys.insert(index, key)
            pool.blocks.insert(index, rest)
            rest.born = pool.num_searches
        else:
            size = block.size
        block.state = ALLOCATED
        block.requested_bytes = num_bytes
        active = self.active_bytes = self.active_bytes + size
        if active > self.peak_active_bytes:
            self.peak_active_bytes = active
        requested = self.requested_bytes = self.requested_bytes + num_bytes
        if requested > self.peak_requested_bytes:
            self.peak_requested_bytes = requested
        allocated = self.allocated_bytes = self.allocated_bytes + size
        if allocated > self.peak_allocated_bytes:
            self.peak_allocated_bytes = allocated
            self.reserved_at_peak_bytes = self.reserved_bytes
        return block

    def free(self, block: Block) -> None:
        """Takes a block back into the cache and joins it with free neighbours.

        Raises:
            UsageError: the block is not allocated.
        """
        if block.state != ALLOCATED:
            raise UsageError(f"{block!r} is not allocated", hint="a block is freed once")
        size = block.size
        self.allocated_bytes -= size
        self.active_bytes -= size
        self.requested_bytes -= block.requested_bytes
        block.state = FREE
        pool = block.pool
        keys = pool.keys
        blocks = pool.blocks
        # The lower block takes in the upper one, so that the first block of a segment is the same object for life.
        other = block.next
        if other is not None and other.state == FREE:
            index = bisect_left(keys, other.size << ADDRESS_BITS | other.address)
            del keys[index]
            del blocks[index]
            size += other.size
            after = block.next = other.next
            if after is not None:
                after.prev = block
        other = block.prev
        if other is not None and other.state == FREE:
            index = bisect_left(keys, other.size << ADDRESS_BITS | other.address)
            del keys[index]
            del blocks[index]
            size += other.size
            after = other.next = block.next
            if after is not None:
                after.prev = other
            block = other
        block.size = size
        key = size << ADDRESS_BITS | block.address
        index = bisect_left(keys, key)
        keys.insert(index, key)
        blocks.insert(index, block)
        block.born = pool.num_searches

    def request_free(self, block: Block) -> None:
        """The first half of `free` for a block that another stream still uses (`record_stream`).

        Raises:
            UsageError: the block is not allocated.
        """
        if block.state != ALLOCATED:
            raise UsageError(f"{block!r} is not allocated", hint="a block is freed once")
        block.state = PENDING
        self.allocated_bytes -= block.size

    def complete_free(self, block: Block) -> None:
        """The second half: the other stream is done.

        Raises:
            UsageError: `request_free` was not called before.
        """
        if block.state != PENDING:
            raise UsageError(f"{block!r} does not wait for another stream", hint="call request_free first")
        block.state = ALLOCATED
        self.allocated_bytes += block.size
        self.free(block)

    def empty_cache(self) -> None:
        """Gives every segment that is free as a whole, and every free page, back to the device."""
        release.release_cached(self)

    def pools_of(self, stream: Stream) -> tuple[Pool, Pool]:
        """The pools of small and of large blocks of a stream."""
        pools = self._pools.get(stream)
        if pools is None:
            is_expandable, limit = self.config.expandable_segments, self.max_split_size
            pools = self._pools[stream] = (
                Pool(stream, is_small=True, is_expandable=is_expandable, max_split_size=limit),
                Pool(stream, is_small=False, is_expandable=is_expandable, max_split_size=limit),
            )
        return pools

    def expand(self, stream: Stream, is_expandable: bool) -> None:
        """Turns expandable segments on or off for a stream, as a program can while it runs; both kinds stay in use."""
        self._plain = False
        for pool in self.pools_of(stream):
            pool.expand(is_expandable)

    def pools(self) -> Iterator[Pool]:
        """Every pool, the large one of a stream before the small one, as the cache is emptied."""
        for small, large in self._pools.values():
            yield large
            yield small

    def page_bytes(self, pool: Pool) -> int:
        """What an expandable segment of this pool is mapped by."""
        return SMALL_SEGMENT_BYTES if pool.is_small else self.config.large_segment_size_bytes

    def count_reserved(self, num_bytes: int) -> None:
        """Counts bytes that were got from the device, or (negative) given back to it."""
        self.reserved_bytes += num_bytes
        if self.reserved_bytes > self.peak_reserved_bytes:
            self.peak_reserved_bytes = self.reserved_bytes

    def _grow(self, pool: Pool, num_bytes: int, size: int) -> Block:
        """A free block, not in the pool, of at least `size` bytes from the device."""
        if self.gc_above_bytes is not None:
            release.collect_garbage(self, self.gc_above_bytes)
        block = self._from_device(pool, size)
        if block is None and release.release_oversize(self, pool, size):
            block = self._from_device(pool, size)
        if block is None:
            release.release_cached(self)
            self.num_retries += 1
            block = self._from_device(pool, size)
        if block is None:
            limits = [limit for limit in (self.allowed_bytes, self.device.capacity_bytes) if limit is not None]
            raise OutOfMemory(
                requested_bytes=num_bytes,
                block_bytes=size,
                segment_bytes=segment_bytes(size, self.config.large_segment_size_bytes),
                allocated_bytes=self.allocated_bytes,
                reserved_bytes=self.reserved_bytes,
                capacity_bytes=min(limits),
            )
        return block

    def _from_device(self, pool: Pool, size: int) -> Block | None:
        """The same, in one try; None when the device has no room."""
        num_bytes = segment_bytes(size, self.config.large_segment_size_bytes)
        if self.allowed_bytes is not None and self.reserved_bytes + num_bytes > self.allowed_bytes:
            return None
        if pool.is_expandable:
            return expandable.grow(self, pool, size)
        address = self.device.allocate(num_bytes, pool.stream)
        if address is None:
            return None
        block = self.heads[address] = Block(address, num_bytes, pool, None, None)
        self.count_reserved(num_bytes)
        return block
