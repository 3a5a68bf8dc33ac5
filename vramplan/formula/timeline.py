"""A run's allocations in the order they happen, put through the caching allocator: what it reserves along the way."""

from __future__ import annotations

from collections.abc import Iterable

from vramplan.allocator import AllocatorConfig, CachingAllocator
from vramplan.allocator.blocks import Block
from vramplan.allocator.sizes import SMALL_BYTES

Blocks = list[Block]


class Timeline:
    """Plays allocations into one allocator.

    Args:
        config: the allocator's settings.
    """

    def __init__(self, config: AllocatorConfig) -> None:
        """Start with an empty allocator without a limit: the answer is what it would hold, not where it breaks."""
        self.allocator = CachingAllocator(config)

    def allocate(self, sizes: Iterable[tuple[int, int]]) -> Blocks:
        """Ask for (bytes, count) of each that is more than `SMALL_BYTES`.

        Smaller ones live in a pool of 2 MiB segments of their own, which they fill: they hold no segment of this one.
        """
        malloc = self.allocator.malloc
        return [malloc(num_bytes) for num_bytes, count in sizes if num_bytes > SMALL_BYTES for _ in range(count)]

    def free(self, blocks: Blocks) -> None:
        """Give blocks back."""
        free = self.allocator.free
        for block in blocks:
            free(block)
        blocks.clear()

    def begin_phase(self) -> None:
        """Start counting peaks anew, as torch.cuda.reset_peak_memory_stats does."""
        allocator = self.allocator
        allocator.peak_reserved_bytes = allocator.reserved_bytes
        allocator.peak_allocated_bytes = allocator.allocated_bytes
