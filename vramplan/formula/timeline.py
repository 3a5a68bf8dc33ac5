"""A run's allocations in the order they happen, put through the caching allocator: what it reserves along the way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vramplan.allocator import AllocatorConfig, CachingAllocator
from vramplan.allocator.blocks import Block

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
        """Ask for (bytes, count) of each; zero bytes are no allocation."""
        malloc = self.allocator.malloc
        return [malloc(num_bytes) for num_bytes, count in sizes if num_bytes for _ in range(count)]

    def free(self, blocks: Blocks) -> None:
        """Give blocks back."""
        free = self.allocator.free
        for block in blocks:
            free(block)
        blocks.clear()

    def play(self, events: Sequence[int]) -> Blocks:
        """Play a phase's events.

        Returns:
            What is still held at its end.
        """
        malloc, free = self.allocator.malloc, self.allocator.free
        blocks: list[Block | None] = []
        append = blocks.append
        for event in events:
            if event > 0:
                append(malloc(event))
            else:
                block = blocks[~event]
                assert block is not None
                free(block)
                blocks[~event] = None
        return [block for block in blocks if block is not None]

    def begin_phase(self) -> None:
        """Start counting peaks anew, as torch.cuda.reset_peak_memory_stats does."""
        allocator = self.allocator
        allocator.peak_reserved_bytes = allocator.reserved_bytes
        allocator.peak_allocated_bytes = allocator.allocated_bytes
