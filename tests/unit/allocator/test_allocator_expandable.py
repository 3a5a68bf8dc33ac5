"""Expandable segments: pages, growth, unmapping."""

from __future__ import annotations

import pytest

from vramplan.allocator.caching import CachingAllocator
from vramplan.allocator.config import AllocatorConfig
from vramplan.allocator.oom import OutOfMemory

MiB = 2**20
EXPANDABLE = AllocatorConfig(expandable_segments=True)


def test_large_blocks_grow_by_pages_of_twenty_mib() -> None:
    allocator = CachingAllocator(EXPANDABLE)
    first = allocator.malloc(30 * MiB)
    assert allocator.reserved_bytes == 40 * MiB
    second = allocator.malloc(15 * MiB)  # 10 are free behind the first, 20 are mapped
    assert allocator.reserved_bytes == 60 * MiB
    assert second.address == first.address + 30 * MiB
    assert allocator.num_segments == 0


def test_small_blocks_grow_by_pages_of_two_mib() -> None:
    allocator = CachingAllocator(EXPANDABLE)
    blocks = [allocator.malloc(MiB) for _ in range(3)]
    assert [block.address - blocks[0].address for block in blocks] == [0, MiB, 2 * MiB]
    assert allocator.reserved_bytes == 4 * MiB


def test_the_page_of_large_blocks_can_be_set() -> None:
    allocator = CachingAllocator(AllocatorConfig(expandable_segments=True, large_segment_size_bytes=64 * MiB))
    allocator.malloc(30 * MiB)
    assert allocator.reserved_bytes == 64 * MiB


def test_large_blocks_are_split_to_the_last_512_bytes() -> None:
    allocator = CachingAllocator(EXPANDABLE)
    assert allocator.malloc(20 * MiB - 512).size == 20 * MiB - 512
    # The 512 bytes left are the first of the next block.
    allocator.malloc(20 * MiB)
    assert allocator.reserved_bytes == 40 * MiB


def test_a_longer_batch_wastes_nothing() -> None:
    plain, growing = CachingAllocator(), CachingAllocator(EXPANDABLE)
    for allocator in (plain, growing):
        for mib in (100, 110, 120):
            blocks = [allocator.malloc(mib * MiB) for _ in range(4)]
            for block in blocks:
                allocator.free(block)
    assert growing.reserved_bytes == 480 * MiB
    assert plain.reserved_bytes == 4 * (100 + 110 + 120) * MiB


def test_the_block_that_can_still_grow_is_kept_for_later() -> None:
    allocator = CachingAllocator(EXPANDABLE)
    low, wall = allocator.malloc(30 * MiB), allocator.malloc(10 * MiB)
    high = allocator.malloc(20 * MiB)
    allocator.free(low)
    allocator.free(high)
    # 20 MiB free at the end would be the better fit for 18, but count as endless: the 30 in front are taken.
    assert allocator.malloc(18 * MiB).address == low.address
    assert wall.prev is not None


def test_streams_and_pools_have_segments_of_their_own() -> None:
    allocator = CachingAllocator(EXPANDABLE)
    for stream in (0, 1):
        allocator.malloc(1, stream)
        allocator.malloc(5 * MiB, stream)
    assert len(allocator.expandable_segments) == 4
    assert allocator.reserved_bytes == 2 * (2 + 20) * MiB


def test_whole_free_pages_are_unmapped_and_mapped_again_in_place() -> None:
    allocator = CachingAllocator(EXPANDABLE)
    low, middle, high = (allocator.malloc(mib * MiB) for mib in (10, 60, 10))
    allocator.free(middle)  # from 10 to 70: the pages from 20 to 60 are free
    allocator.empty_cache()
    assert allocator.reserved_bytes == 40 * MiB
    # 35 MiB: 10 to 20 are mapped and free, 20 to 60 are mapped again from the lowest on.
    again = allocator.malloc(35 * MiB)
    assert again.address == low.address + 10 * MiB
    assert allocator.reserved_bytes == 80 * MiB
    assert high.address == low.address + 70 * MiB


def test_a_segment_without_a_mapped_page_is_given_up() -> None:
    allocator = CachingAllocator(EXPANDABLE)
    allocator.free(allocator.malloc(100 * MiB))
    allocator.empty_cache()
    assert allocator.reserved_bytes == 0
    assert allocator.expandable_segments == []


def test_running_out_of_memory() -> None:
    allocator = CachingAllocator(EXPANDABLE, capacity_bytes=100 * MiB)
    allocator.malloc(75 * MiB)
    with pytest.raises(OutOfMemory) as caught:
        allocator.malloc(30 * MiB)
    assert caught.value.reserved_bytes == 80 * MiB
    # 5 MiB are free at the end and one page is left.
    assert allocator.malloc(25 * MiB).size == 25 * MiB


def test_free_pages_elsewhere_make_room() -> None:
    allocator = CachingAllocator(EXPANDABLE, capacity_bytes=100 * MiB)
    allocator.free(allocator.malloc(70 * MiB, stream=1))
    allocator.malloc(100 * MiB)
    assert allocator.num_retries == 1
    assert allocator.reserved_bytes == 100 * MiB


def test_a_second_segment_when_the_addresses_are_used_up() -> None:
    # 90 MiB of addresses are five pages; 10 MiB stay in use at the end of what is mapped.
    allocator = CachingAllocator(EXPANDABLE, capacity_bytes=80 * MiB)
    first, last = allocator.malloc(50 * MiB), allocator.malloc(10 * MiB)
    allocator.free(first)
    allocator.malloc(60 * MiB)
    assert len(allocator.expandable_segments) == 2
    assert last.address == first.address + 50 * MiB


def test_turned_off_only_other_segments_are_used() -> None:
    allocator = CachingAllocator(EXPANDABLE)
    allocator.free(allocator.malloc(40 * MiB))
    allocator.expand(0, False)
    fixed = allocator.malloc(30 * MiB)
    assert fixed.expandable is None
    assert allocator.reserved_bytes == 40 * MiB + 30 * MiB
    allocator.free(fixed)
    assert allocator.malloc(29 * MiB) is fixed  # and they keep up to 1 MiB again
    assert fixed.size == 30 * MiB
    allocator.expand(0, True)
    assert allocator.malloc(35 * MiB).expandable is not None
    assert allocator.reserved_bytes == 70 * MiB
