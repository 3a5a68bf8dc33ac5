"""Blocks, and the pool of free ones that a request is served from.

A segment is a chain of blocks in address order, linked by `prev` and `next`. Two free neighbours never stay apart.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from operator import attrgetter
from typing import TYPE_CHECKING

from vramplan.allocator.sizes import MIN_BLOCK_BYTES, SMALL_BYTES

if TYPE_CHECKING:
    from vramplan.allocator.expandable import ExpandableSegment

# The state of a block. Plain ints: they are compared for every event of a replay.
FREE = 0
ALLOCATED = 1
PENDING = 2
"""Freed by the program, still in use by another stream: active, not allocated."""
UNMAPPED = 3
"""Addresses of an expandable segment without memory behind them."""

ADDRESS_BITS = 64
"""A free block is ordered by `size << ADDRESS_BITS | address`: best fit, then the lowest address."""
NO_LIMIT = 1 << ADDRESS_BITS
"""Larger than any block."""


PoolId = tuple[int, int]
"""A memory pool as PyTorch numbers it (`MempoolId_t`)."""
DEFAULT_POOL: PoolId = (0, 0)
Stream = int | tuple[int, PoolId]
"""Whose blocks are kept apart: a CUDA stream in the default memory pool, or a stream in another memory pool."""


class Block:
    """A range of addresses with one use.

    Attributes:
        address: of its first byte.
        size: in bytes; with the address it says which bytes the block covers.
        requested_bytes: what the program asked for, at most `size`; of a free block, what it last asked for.
        state: FREE, ALLOCATED, PENDING or UNMAPPED.
        pool: where it goes when it is freed.
        prev: its neighbour below in the same segment, or None.
        next: its neighbour above in the same segment, or None.
        expandable: the expandable segment that it is part of, or None.
        born: how many searches its pool had seen when it was last freed.
    """

    __slots__ = ("address", "born", "expandable", "next", "pool", "prev", "requested_bytes", "size", "state")

    def __init__(
        self,
        address: int,
        size: int,
        pool: Pool,
        prev: Block | None,
        next: Block | None,
        expandable: ExpandableSegment | None = None,
    ) -> None:
        self.address = address
        self.size = size
        self.requested_bytes = 0
        self.state = FREE
        self.pool = pool
        self.prev = prev
        self.next = next
        self.expandable = expandable
        self.born = 0

    def __repr__(self) -> str:
        state = ("free", "allocated", "pending", "unmapped")[self.state]
        return f"Block(address={self.address:#x}, size={self.size}, {state})"

    @property
    def is_whole_segment(self) -> bool:
        """Whether it is alone in its segment, so that the segment could be given back."""
        return self.prev is None and self.next is None


class Pool:
    """The free blocks of one stream, all small or all large.

    Attributes:
        stream: whose blocks they are.
        keys: one int per free block, ascending; see `ADDRESS_BITS`.
        blocks: the free blocks, in the order of `keys`.
        unmapped: the unmapped blocks, by address.
        is_small: whether its blocks have at most 1 MiB.
        is_expandable: whether it grows by expandable segments.
        min_remainder: the least number of bytes that is worth splitting off.
        split_below: blocks for requests of this size or more are not split.
        num_searches: requests that looked here, counted only while garbage collection is on.
    """

    __slots__ = (
        "_max_split_size",
        "blocks",
        "is_expandable",
        "is_small",
        "keys",
        "min_remainder",
        "num_searches",
        "split_below",
        "stream",
        "unmapped",
    )

    def __init__(self, stream: Stream, *, is_small: bool, is_expandable: bool, max_split_size: int) -> None:
        self.stream = stream
        self.keys: list[int] = []
        self.blocks: list[Block] = []
        self.unmapped: list[Block] = []
        self.is_small = is_small
        self.num_searches = 0
        self._max_split_size = max_split_size
        self.expand(is_expandable)

    def expand(self, is_expandable: bool) -> None:
        """Turns expandable segments on or off from now on."""
        self.is_expandable = is_expandable
        # A large block keeps a remainder of up to 1 MiB; small and expandable ones keep nothing of 512 bytes or more.
        finely = self.is_small or is_expandable
        self.min_remainder = MIN_BLOCK_BYTES if finely else SMALL_BYTES + 1
        self.split_below = NO_LIMIT if finely else self._max_split_size

    @property
    def is_private(self) -> bool:
        """Whether it belongs to a memory pool of its own, of a CUDA graph or of the user."""
        return isinstance(self.stream, tuple) and self.stream[1] != DEFAULT_POOL

    def add(self, block: Block) -> None:
        """Puts a free block where a search will find it."""
        key = block.size << ADDRESS_BITS | block.address
        index = bisect_left(self.keys, key)
        self.keys.insert(index, key)
        self.blocks.insert(index, block)
        block.born = self.num_searches

    def remove(self, block: Block) -> None:
        """Takes a free block out; its size and address must be as when it was added."""
        index = bisect_left(self.keys, block.size << ADDRESS_BITS | block.address)
        del self.keys[index]
        del self.blocks[index]

    def add_unmapped(self, block: Block) -> None:
        """Remembers addresses that can be backed with memory."""
        insort(self.unmapped, block, key=attrgetter("address"))

    def remove_unmapped(self, block: Block) -> None:
        """Forgets them."""
        self.unmapped.remove(block)
