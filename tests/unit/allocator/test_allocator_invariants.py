"""What holds for any program and any settings, and that a plain list of gaps gives the same places."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from vramplan.allocator.blocks import ALLOCATED, FREE, PENDING, UNMAPPED, Block
from vramplan.allocator.caching import CachingAllocator
from vramplan.allocator.config import AllocatorConfig
from vramplan.allocator.oom import OutOfMemory
from vramplan.allocator.sizes import block_bytes, segment_bytes
from vramplan.allocator.state import segments_of

MiB = 2**20
SETTINGS = (
    "",
    "expandable_segments:True",
    "max_split_size_mb:24",
    "max_split_size_mb:24,max_non_split_rounding_mb:40",
    "roundup_power2_divisions:4",
    "garbage_collection_threshold:0.3,per_process_memory_fraction:0.9",
    "expandable_segments:True,max_split_size_mb:32,roundup_power2_divisions:[1:2,8:8]",
    "large_segment_size_mb:40",
)
sizes = (
    st.sampled_from([1, 512, 513, MiB, MiB + 1, 10 * MiB, 20 * MiB])
    | st.integers(1, MiB)
    | st.integers(MiB, 12 * MiB)
    | st.integers(10 * MiB, 64 * MiB)
)
# (what to do, which block or how many bytes, stream)
steps = st.lists(
    st.tuples(
        st.sampled_from(["malloc", "malloc", "malloc", "free", "free", "request", "complete", "empty"]), sizes
    ).flatmap(lambda step: st.tuples(st.just(step[0]), st.just(step[1]), st.sampled_from([0, 0, 0, 1, (0, (0, 1))]))),
    max_size=60,
)


def run(allocator: CachingAllocator, program: list[tuple[str, int, object]]) -> Iterator[list[Block]]:
    """Does the steps; after each, the blocks that are allocated or pending."""
    live: list[Block] = []
    pending: list[Block] = []
    for action, number, stream in program:
        if action == "malloc":
            with contextlib.suppress(OutOfMemory):
                live.append(allocator.malloc(number, stream))  # type: ignore[arg-type]
        elif action == "empty":
            allocator.empty_cache()
        elif action == "complete" and pending:
            allocator.complete_free(pending.pop(number % len(pending)))
        elif action in ("free", "request") and live:
            block = live.pop(number % len(live))
            if action == "free":
                allocator.free(block)
            else:
                allocator.request_free(block)
                pending.append(block)
        yield live + pending


def check(allocator: CachingAllocator, blocks: list[Block]) -> None:
    ranges = sorted((block.address, block.address + block.size) for block in blocks)
    assert all(low[1] <= high[0] for low, high in pairwise(ranges)), "blocks overlap"
    assert allocator.allocated_bytes == sum(block.size for block in blocks if block.state == ALLOCATED)
    assert allocator.active_bytes == sum(block.size for block in blocks)
    assert allocator.requested_bytes == sum(block.requested_bytes for block in blocks)
    assert allocator.requested_bytes <= allocator.active_bytes <= allocator.reserved_bytes
    assert allocator.allocated_bytes <= allocator.active_bytes
    segments = segments_of(allocator)
    assert allocator.reserved_bytes == sum(segment.size_bytes for segment in segments)
    assert allocator.device.used_bytes == allocator.reserved_bytes
    found = {
        (block.address, block.size_bytes)
        for segment in segments
        for block in segment.blocks
        if block.state in (ALLOCATED, PENDING)
    }
    assert found == {(block.address, block.size) for block in blocks}
    for pool in allocator.pools():
        assert pool.keys == sorted(pool.keys)
        assert len(pool.keys) == len(pool.blocks)
        for block in pool.blocks:
            assert block.state == FREE
            for other in (block.prev, block.next):
                assert other is None or other.state != FREE, "free neighbours are apart"
        for block in pool.unmapped:
            assert block.state == UNMAPPED
            for other in (block.prev, block.next):
                assert other is None or other.state != UNMAPPED


@given(steps, st.sampled_from(SETTINGS), st.sampled_from([None, 150 * MiB, 400 * MiB]))
def test_after_every_step(program: list[tuple[str, int, object]], text: str, capacity_bytes: int | None) -> None:
    allocator = CachingAllocator(AllocatorConfig.parse(text), capacity_bytes)
    for blocks in run(allocator, program):
        check(allocator, blocks)
    assert allocator.peak_allocated_bytes <= allocator.peak_reserved_bytes
    assert allocator.peak_allocated_bytes <= allocator.reserved_at_peak_bytes
    if capacity_bytes is not None:
        assert allocator.peak_reserved_bytes <= capacity_bytes


@given(steps, st.sampled_from(SETTINGS))
def test_freeing_everything_gives_everything_back(program: list[tuple[str, int, object]], text: str) -> None:
    allocator = CachingAllocator(AllocatorConfig.parse(text))
    blocks: list[Block] = []
    # Memory pools of their own keep theirs until their owner lets go.
    for live in run(allocator, [(action, number, stream) for action, number, stream in program if stream in (0, 1)]):
        blocks = list(live)
    for block in blocks:
        (allocator.free if block.state == ALLOCATED else allocator.complete_free)(block)
    assert allocator.allocated_bytes == allocator.active_bytes == allocator.requested_bytes == 0
    allocator.empty_cache()
    assert allocator.reserved_bytes == allocator.num_segments == 0
    assert all(not pool.blocks and not pool.unmapped for pool in allocator.pools())


class Gaps:
    """The rules for segments that do not expand, said in another way: free memory is what lies between blocks."""

    def __init__(self, config: AllocatorConfig) -> None:
        self.config = config
        self.segments: list[tuple[int, int, tuple[object, bool]]] = []
        self.live: dict[int, int] = {}

    def gaps(self, pool: tuple[object, bool]) -> list[tuple[int, int]]:
        found = []
        for start, size, owner in self.segments:
            if owner != pool:
                continue
            at = start
            for address in sorted(address for address in self.live if start <= address < start + size):
                if address > at:
                    found.append((address - at, at))
                at = address + self.live[address]
            if at < start + size:
                found.append((start + size - at, at))
        return found

    def place(self, num_bytes: int, stream: object, next_address: int) -> int:
        size = block_bytes(num_bytes, self.config.roundup_power2_divisions)
        pool = (stream, size <= MiB)
        limit = self.config.max_split_size_bytes or 2**62
        fitting = sorted(gap for gap in self.gaps(pool) if gap[0] >= size)
        if fitting and not (size < limit <= fitting[0][0] or (size >= limit and fitting[0][0] >= size + 20 * MiB)):
            room, address = fitting[0]
        else:
            room, address = segment_bytes(size), next_address
            self.segments.append((address, room, pool))
        rest = room - size
        is_split = rest >= 512 if size <= MiB else (rest > MiB and size < limit)
        self.live[address] = size if is_split else room
        return address


@given(steps, st.sampled_from(["", "max_split_size_mb:24", "roundup_power2_divisions:4"]))
def test_places_are_those_of_a_list_of_gaps(program: list[tuple[str, int, object]], text: str) -> None:
    config = AllocatorConfig.parse(text)
    allocator, gaps = CachingAllocator(config), Gaps(config)
    live: list[Block] = []
    for action, number, stream in program:
        if action == "malloc":
            block = allocator.malloc(number, stream)  # type: ignore[arg-type]
            assert block.address == gaps.place(number, stream, block.address)
            assert block.size == gaps.live[block.address]
            live.append(block)
        elif live:
            block = live.pop(number % len(live))
            del gaps.live[block.address]
            allocator.free(block)
    assert allocator.reserved_bytes == sum(size for _, size, _ in gaps.segments)
    assert allocator.allocated_bytes == sum(gaps.live.values())
