"""The rules for placing blocks, one by one, with numbers worked out by hand."""

from __future__ import annotations

import pytest

from vramplan.allocator.blocks import ALLOCATED, FREE, Block
from vramplan.allocator.caching import CachingAllocator
from vramplan.allocator.config import AllocatorConfig
from vramplan.errors import UsageError

MiB = 2**20


def offsets(allocator: CachingAllocator, *blocks: Block) -> list[int]:
    """Addresses from the start of the first segment."""
    base = min(allocator.heads)
    return [block.address - base for block in blocks]


def test_small_blocks_share_a_segment_of_two_mib() -> None:
    allocator = CachingAllocator()
    first, second = allocator.malloc(1000), allocator.malloc(1)
    assert offsets(allocator, first, second) == [0, 1024]
    assert (first.size, second.size) == (1024, 512)
    assert allocator.reserved_bytes == 2 * MiB
    assert allocator.allocated_bytes == 1536
    assert allocator.requested_bytes == 1001


def test_the_third_block_of_one_mib_needs_a_second_segment() -> None:
    allocator = CachingAllocator()
    for _ in range(2):
        allocator.malloc(MiB)
    assert allocator.num_segments == 1
    allocator.malloc(MiB)
    assert allocator.num_segments == 2
    assert allocator.reserved_bytes == 4 * MiB


def test_large_blocks_under_ten_mib_share_a_segment_of_twenty() -> None:
    allocator = CachingAllocator()
    blocks = [allocator.malloc(6 * MiB) for _ in range(3)]
    assert offsets(allocator, *blocks) == [0, 6 * MiB, 12 * MiB]
    assert allocator.reserved_bytes == 20 * MiB
    # 2 MiB are left: enough for one block of 2, not for one of 3.
    allocator.malloc(2 * MiB)
    assert allocator.reserved_bytes == 20 * MiB
    allocator.malloc(3 * MiB)
    assert allocator.reserved_bytes == 40 * MiB


def test_small_requests_never_use_large_free_blocks() -> None:
    allocator = CachingAllocator()
    allocator.free(allocator.malloc(50 * MiB))
    allocator.malloc(MiB)
    assert allocator.reserved_bytes == 52 * MiB


def test_a_large_block_keeps_a_remainder_of_up_to_one_mib() -> None:
    allocator = CachingAllocator()
    allocator.free(allocator.malloc(20 * MiB))
    kept = allocator.malloc(19 * MiB)
    assert kept.size == 20 * MiB
    assert allocator.allocated_bytes == 20 * MiB
    assert allocator.requested_bytes == 19 * MiB
    allocator.free(kept)
    split = allocator.malloc(19 * MiB - 512)
    assert split.size == 19 * MiB - 512
    assert split.next is not None
    assert (split.next.size, split.next.state) == (MiB + 512, FREE)


def test_a_small_block_is_split_to_the_last_512_bytes() -> None:
    allocator = CachingAllocator()
    first = allocator.malloc(1024)
    allocator.malloc(1)  # so that the first does not grow back into the segment
    allocator.free(first)
    again = allocator.malloc(512)
    assert again.size == 512
    assert again.next is not None
    assert again.next.size == 512


def test_the_smallest_block_that_fits_is_taken() -> None:
    allocator = CachingAllocator()
    blocks = [allocator.malloc(mib * MiB) for mib in (30, 24, 26)]
    for block in blocks:
        allocator.free(block)
    assert allocator.malloc(25 * MiB).address == blocks[2].address


def test_of_equal_blocks_the_lowest_address_is_taken() -> None:
    allocator = CachingAllocator()
    blocks = [allocator.malloc(30 * MiB) for _ in range(3)]
    for block in blocks:
        allocator.free(block)
    found = [allocator.malloc(30 * MiB).address for _ in range(3)]
    assert found == sorted(found) == sorted(block.address for block in blocks)


def test_a_new_segment_lies_below_the_others() -> None:
    allocator = CachingAllocator()
    addresses = [allocator.malloc(30 * MiB).address for _ in range(3)]
    assert addresses == sorted(addresses, reverse=True)


def test_neighbours_are_joined_on_either_side() -> None:
    allocator = CachingAllocator()
    low, middle, high, rest = (allocator.malloc(5 * MiB) for _ in range(4))
    allocator.free(low)
    allocator.free(high)
    allocator.free(middle)
    assert allocator.malloc(15 * MiB).address == low.address
    assert allocator.num_segments == 1
    assert rest.state == ALLOCATED


def test_segments_are_never_joined() -> None:
    allocator = CachingAllocator()
    blocks = [allocator.malloc(10 * MiB) for _ in range(2)]
    for block in blocks:
        allocator.free(block)
    allocator.malloc(20 * MiB)
    assert allocator.reserved_bytes == 40 * MiB


def test_streams_do_not_share_blocks() -> None:
    allocator = CachingAllocator()
    first = allocator.malloc(10 * MiB, stream=1)
    allocator.free(first)
    allocator.malloc(10 * MiB, stream=2)
    assert allocator.reserved_bytes == 20 * MiB
    assert allocator.malloc(10 * MiB, stream=1).address == first.address


def test_memory_pools_do_not_share_blocks_and_outlive_an_emptied_cache() -> None:
    allocator = CachingAllocator()
    allocator.free(allocator.malloc(10 * MiB, stream=(0, (0, 1))))
    allocator.free(allocator.malloc(12 * MiB))
    allocator.empty_cache()
    assert allocator.reserved_bytes == 10 * MiB


def test_empty_cache_gives_back_what_is_wholly_free() -> None:
    allocator = CachingAllocator()
    whole = allocator.malloc(30 * MiB)
    part, kept = allocator.malloc(5 * MiB), allocator.malloc(5 * MiB)
    allocator.free(whole)
    allocator.free(part)
    allocator.empty_cache()
    assert allocator.reserved_bytes == 20 * MiB
    allocator.free(kept)
    allocator.empty_cache()
    assert (allocator.reserved_bytes, allocator.num_segments) == (0, 0)
    assert allocator.peak_reserved_bytes == 50 * MiB


def test_a_block_of_another_stream_is_active_until_that_is_done() -> None:
    allocator = CachingAllocator()
    block = allocator.malloc(10 * MiB)
    allocator.request_free(block)
    assert (allocator.allocated_bytes, allocator.active_bytes, allocator.requested_bytes) == (0, 10 * MiB, 10 * MiB)
    assert allocator.malloc(10 * MiB).address != block.address
    allocator.complete_free(block)
    assert allocator.active_bytes == 10 * MiB
    assert allocator.malloc(10 * MiB).address == block.address


def test_the_peaks() -> None:
    allocator = CachingAllocator()
    first = allocator.malloc(30 * MiB)
    allocator.free(first)
    allocator.malloc(29 * MiB + 512)
    second = allocator.malloc(MiB // 2)
    allocator.free(second)
    allocator.malloc(40 * MiB, stream=1)
    assert allocator.peak_allocated_bytes == 70 * MiB
    assert allocator.reserved_at_peak_bytes == 72 * MiB
    assert allocator.peak_requested_bytes == 69 * MiB + 512


def test_rounding_to_steps_lets_a_slightly_larger_request_reuse_the_block() -> None:
    plain, stepped = CachingAllocator(), CachingAllocator(AllocatorConfig.parse("roundup_power2_divisions:8"))
    for allocator in (plain, stepped):
        allocator.free(allocator.malloc(33 * MiB))
        allocator.malloc(35 * MiB)
    assert plain.reserved_bytes == 34 * MiB + 36 * MiB
    assert stepped.reserved_bytes == 36 * MiB


def test_misuse_is_refused() -> None:
    allocator = CachingAllocator()
    with pytest.raises(UsageError):
        allocator.malloc(0)
    block = allocator.malloc(1)
    with pytest.raises(UsageError):
        allocator.complete_free(block)
    allocator.free(block)
    for call in (allocator.free, allocator.request_free):
        with pytest.raises(UsageError):
            call(block)
