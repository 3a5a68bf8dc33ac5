"""A trace without its addresses: what a program asked for and gave up, to be run under any settings."""

from __future__ import annotations

from dataclasses import dataclass

from vramplan.allocator.blocks import Block, Stream
from vramplan.allocator.caching import CachingAllocator
from vramplan.allocator.config import AllocatorConfig

_ALLOC, _REQUEST_FREE, _FREE, _EMPTY_CACHE = range(4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a program reserved under some settings; see `ReplayResult` for the fields."""

    config: AllocatorConfig
    peak_allocated_bytes: int
    reserved_at_peak_bytes: int
    peak_reserved_bytes: int
    final_reserved_bytes: int
    num_retries: int


class Program:
    """Steps, written down in order; a block goes by any int that no other live block has."""

    __slots__ = ("_steps",)

    def __init__(self) -> None:
        """Starts without a step."""
        self._steps: list[tuple[int, int, int, Stream]] = []

    def __len__(self) -> int:
        """The number of steps."""
        return len(self._steps)

    def alloc(self, name: int, num_bytes: int, owner: Stream) -> None:
        """Asks for a block."""
        self._steps.append((_ALLOC, name, num_bytes, owner))

    def request_free(self, name: int) -> None:
        """Gives a block up that another stream may still use."""
        self._steps.append((_REQUEST_FREE, name, 0, 0))

    def free(self, name: int) -> None:
        """Frees a block, given up before or not."""
        self._steps.append((_FREE, name, 0, 0))

    def empty_cache(self) -> None:
        """Gives the cache back."""
        self._steps.append((_EMPTY_CACHE, 0, 0, 0))

    def run(self, config: AllocatorConfig, capacity_bytes: int | None = None) -> Outcome:
        """Runs the steps through a fresh allocator.

        Raises:
            OutOfMemory: the capacity is not enough.
        """
        allocator = CachingAllocator(config, capacity_bytes)
        blocks: dict[int, Block] = {}
        pending: set[int] = set()
        for step, name, num_bytes, owner in self._steps:
            if step == _ALLOC:
                blocks[name] = allocator.malloc(num_bytes, owner)
            elif step == _REQUEST_FREE:
                allocator.request_free(blocks[name])
                pending.add(name)
            elif step == _FREE:
                if name in pending:
                    pending.remove(name)
                    allocator.complete_free(blocks.pop(name))
                else:
                    allocator.free(blocks.pop(name))
            else:
                allocator.empty_cache()
        return Outcome(
            config=config,
            peak_allocated_bytes=allocator.peak_allocated_bytes,
            reserved_at_peak_bytes=allocator.reserved_at_peak_bytes,
            peak_reserved_bytes=allocator.peak_reserved_bytes,
            final_reserved_bytes=allocator.reserved_bytes,
            num_retries=allocator.num_retries,
        )
