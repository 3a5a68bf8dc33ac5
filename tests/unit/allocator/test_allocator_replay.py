"""The flat list of ints: what it means, what it returns, what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramplan.allocator.blocks import Block
from vramplan.allocator.caching import CachingAllocator
from vramplan.allocator.config import AllocatorConfig
from vramplan.allocator.oom import OutOfMemory
from vramplan.allocator.replay import ReplayResult, replay
from vramplan.errors import UsageError

MiB = 2**20


def test_numbers_worked_out_by_hand() -> None:
    #        0         1        free 0  2: into the 30   free 1    3
    events = [30 * MiB, 5 * MiB, -1, 12 * MiB, -2, 700]
    assert replay(events) == ReplayResult(
        peak_allocated_bytes=35 * MiB,
        reserved_at_peak_bytes=50 * MiB,
        peak_reserved_bytes=52 * MiB,
        final_allocated_bytes=12 * MiB + 1024,
        final_reserved_bytes=52 * MiB,
        num_retries=0,
    )


def test_no_events() -> None:
    assert replay([]).peak_reserved_bytes == 0


def test_settings_and_capacity_are_used() -> None:
    events = [30 * MiB, -1, 45 * MiB]
    assert replay(events, AllocatorConfig(expandable_segments=True)).peak_reserved_bytes == 60 * MiB
    assert replay(events).peak_reserved_bytes == 76 * MiB
    assert replay(events, capacity_bytes=50 * MiB).num_retries == 1


def test_running_out_says_at_which_event() -> None:
    with pytest.raises(OutOfMemory) as caught:
        replay([30 * MiB, -1, 30 * MiB, 40 * MiB, 1], capacity_bytes=60 * MiB)
    assert caught.value.event_index == 3


@pytest.mark.parametrize(
    ("events", "index"),
    [([512, 0], 1), ([512, -2], 1), ([512, -1, -1], 2), ([-1], 0)],
)
def test_events_that_mean_nothing_are_refused(events: list[int], index: int) -> None:
    with pytest.raises(UsageError, match=f"event {index}, {events[index]}, frees no block"):
        replay(events)


@given(
    st.lists(st.integers(1, 40 * MiB) | st.integers(1, 3 * MiB) | st.integers(-8, -1), max_size=80),
    st.sampled_from(["", "expandable_segments:True", "max_split_size_mb:20"]),
)
def test_it_is_malloc_and_free_in_order(choices: list[int], text: str) -> None:
    config = AllocatorConfig.parse(text)
    allocator = CachingAllocator(config)
    events: list[int] = []
    blocks: list[Block] = []
    live: list[int] = []
    for choice in choices:
        if choice > 0:
            events.append(choice)
            live.append(len(blocks))
            blocks.append(allocator.malloc(choice))
        elif live:
            serial = live.pop(choice % len(live))
            events.append(-(serial + 1))
            allocator.free(blocks[serial])
    result = replay(events, config)
    assert result.peak_allocated_bytes == allocator.peak_allocated_bytes
    assert result.reserved_at_peak_bytes == allocator.reserved_at_peak_bytes
    assert result.peak_reserved_bytes == allocator.peak_reserved_bytes
    assert result.final_allocated_bytes == allocator.allocated_bytes
    assert result.final_reserved_bytes == allocator.reserved_bytes
