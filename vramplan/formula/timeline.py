"""A run's allocations in the order they happen, put through the caching allocator: what it reserves along the way."""

from __future__ import annotations

from collections.abc import Iterable

from vramplan.allocator.plain import Block, PlainAllocator, Slots, Step
from vramplan.allocator.sizes import MIN_BLOCK_BYTES, SMALL_BYTES

Blocks = list[Block]


class Timeline:
    """Plays allocations into one allocator.

    Args:
        allocator: where; None: an empty one. It has no limit: the answer is what it would hold, not where it breaks.
    """

    def __init__(self, allocator: PlainAllocator | None = None) -> None:
        """See the class."""
        self.allocator = allocator or PlainAllocator()

    def allocate(self, sizes: Iterable[tuple[int, int]]) -> Blocks:
        """Ask for (bytes, count) of each that is more than `SMALL_BYTES`.

        Smaller ones live in a pool of 2 MiB segments of their own, which they fill: they hold no segment of this one.
        """
        steps: list[Step] = []
        for num_bytes, count in sizes:
            if num_bytes > SMALL_BYTES:
                length, first = -(-num_bytes // MIN_BLOCK_BYTES), len(steps)
                steps += [(length, slot) for slot in range(first, first + count)]
        slots: Slots = [None] * len(steps)
        self.allocator.run([(steps, slots, ())])
        return [taken for taken in slots if taken is not None]

    def free(self, blocks: Blocks) -> None:
        """Give blocks back."""
        self.allocator.run([([(0, slot) for slot in range(len(blocks))], [*blocks], ())])
        blocks.clear()
