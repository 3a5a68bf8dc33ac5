"""Requests to blocks to segments, with numbers worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramplan.allocator.config import AllocatorConfig
from vramplan.allocator.sizes import block_bytes, segment_bytes

MiB = 2**20


@pytest.mark.parametrize(
    ("requested", "block"),
    [(1, 512), (511, 512), (512, 512), (513, 1024), (1000, 1024), (MiB, MiB), (MiB + 1, MiB + 512)],
)
def test_blocks_are_multiples_of_512(requested: int, block: int) -> None:
    assert block_bytes(requested) == block


@pytest.mark.parametrize(
    ("block", "segment"),
    [
        (512, 2 * MiB),
        (MiB, 2 * MiB),
        (MiB + 512, 20 * MiB),
        (10 * MiB - 512, 20 * MiB),
        (10 * MiB, 10 * MiB),
        (10 * MiB + 512, 12 * MiB),
        (12 * MiB, 12 * MiB),
        (8_519_680, 20 * MiB),  # cuBLAS's workspace before Hopper
        (32 * MiB, 32 * MiB),  # and on it
    ],
)
def test_segments_are_two_or_twenty_mib_or_dedicated(block: int, segment: int) -> None:
    assert segment_bytes(block) == segment


def test_the_twenty_mib_segment_can_be_set() -> None:
    assert segment_bytes(3 * MiB, 64 * MiB) == 64 * MiB
    assert segment_bytes(10 * MiB, 64 * MiB) == 10 * MiB
    assert segment_bytes(MiB, 64 * MiB) == 2 * MiB


@pytest.mark.parametrize(
    ("requested", "steps", "block"),
    [
        # Between 1 and 2 MiB, four steps are 256 KiB.
        (MiB + 1, 4, MiB + 256 * 1024),
        (MiB + 256 * 1024, 4, MiB + 256 * 1024),
        (2 * MiB, 4, 2 * MiB),
        (7 * MiB, 4, 7 * MiB),  # 4 + 3 x 1
        (7 * MiB + 1, 4, 8 * MiB),
        (7 * MiB, 1, 7 * MiB),  # one step is off
        (5 * MiB, 2, 6 * MiB),
        # 512 x 4 bytes and less are rounded to 512 only.
        (1537, 4, 2048),
        (2048, 4, 2048),
        (2049, 4, 2560),
        (100, 4, 512),
    ],
)
def test_steps_between_powers_of_two(requested: int, steps: int, block: int) -> None:
    assert block_bytes(requested, (steps,) * 16) == block


def test_each_interval_has_its_own_steps() -> None:
    divisions = AllocatorConfig.parse("roundup_power2_divisions:[1:0,2:4,4:1,>:2]").roundup_power2_divisions
    assert block_bytes(MiB + 1, divisions) == MiB + 512  # 1 to 2 MiB: off
    assert block_bytes(2 * MiB + 1, divisions) == 2 * MiB + 512 * 1024  # 2 to 4 MiB: four steps
    assert block_bytes(5 * MiB + 1, divisions) == 5 * MiB + 512  # 4 to 8 MiB: one step is off
    assert block_bytes(9 * MiB, divisions) == 12 * MiB  # from 8 MiB: two steps
    assert block_bytes(90 * 2**30, divisions) == 96 * 2**30  # above 64 GiB: as the last interval


@given(st.integers(1, 2**37), st.sampled_from([0, 1, 2, 4, 8, 64]))
def test_a_block_holds_its_request_and_stays_one_when_rounded_again(requested: int, steps: int) -> None:
    divisions = (steps,) * 16
    block = block_bytes(requested, divisions)
    assert block >= requested
    assert block % 512 == 0
    assert block_bytes(block, divisions) == block
    assert segment_bytes(block) >= block
