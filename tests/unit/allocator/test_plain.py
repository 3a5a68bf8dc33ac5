"""PlainAllocator holds what CachingAllocator holds, after every operation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramplan.allocator import CachingAllocator
from vramplan.allocator.blocks import Block
from vramplan.allocator.plain import PlainAllocator, Step, Taken
from vramplan.allocator.sizes import MIN_BLOCK_BYTES, SMALL_BYTES, round_up
from vramplan.errors import UsageError
from vramplan.units import MiB

# Few sizes, so that free blocks of one size compete and the lowest address has to win; on both sides of every rule.
SIZES = st.one_of(
    st.sampled_from(
        [MiB + 1, 2 * MiB, 3 * MiB, 9 * MiB, 10 * MiB - 1, 10 * MiB, 19 * MiB, 20 * MiB, 21 * MiB, 64 * MiB]
    ),
    st.integers(min_value=SMALL_BYTES + 1, max_value=96 * MiB),
)
ACTIONS = st.lists(st.one_of(SIZES, st.just("free"), st.just("free"), st.just("empty_cache")), max_size=120)


def figures(allocator: CachingAllocator | PlainAllocator) -> tuple[int, int, int, int]:
    return (
        allocator.allocated_bytes,
        allocator.reserved_bytes,
        allocator.peak_allocated_bytes,
        allocator.peak_reserved_bytes,
    )


@given(actions=ACTIONS, choice=st.randoms(use_true_random=False))
def test_the_same_bytes_after_every_operation(actions, choice):
    whole, plain = CachingAllocator(), PlainAllocator()
    held: list[tuple[Block, Taken]] = []
    for action in actions:
        if action == "empty_cache":
            whole.empty_cache()
            plain.empty_cache()
        elif action == "free":
            if held:
                block, taken = held.pop(choice.randrange(len(held)))
                whole.free(block)
                plain.free(taken)
        else:
            held.append((whole.malloc(action), plain.malloc(action)))
            assert held[-1][0].size == held[-1][1][1]
        assert figures(plain) == figures(whole)


@given(sizes=st.lists(SIZES, min_size=1, max_size=30), choice=st.randoms(use_true_random=False))
def test_many_steps_at_once_are_the_steps_one_by_one(sizes, choice):
    steps: list[Step] = []
    held: list[int] = []
    for slot, size in enumerate(sizes):
        steps.append((round_up(size, MIN_BLOCK_BYTES), slot))
        held.append(slot)
        if choice.random() < 0.6:
            steps.append((0, held.pop(choice.randrange(len(held)))))
    together, apart = PlainAllocator(), PlainAllocator()
    slots: list[Taken | None] = [None] * (len(sizes) + 1)
    together.run(steps, slots, 1)
    taken: dict[int, Taken] = {}
    for size, slot in steps:
        if size:
            taken[slot] = apart.malloc(size)
        else:
            apart.free(taken.pop(slot))
    assert figures(together) == figures(apart)
    assert slots[0] is None
    assert {slot: one for slot, one in enumerate(slots[1:]) if one is not None} == taken


def test_a_free_may_name_another_group_from_its_end():
    allocator = PlainAllocator()
    slots: list[Taken | None] = [None] * 3
    allocator.run([(2 * MiB, 0), (4 * MiB, 1)], slots)
    allocator.run([(6 * MiB, 0), (-1, 1)], slots, 2, [2])  # group 0 ends at slot 2: its last one
    assert [one is not None for one in slots] == [True, False, True]
    assert allocator.allocated_bytes == 8 * MiB


def test_an_empty_slot_is_given_back_without_effect():
    allocator = PlainAllocator()
    allocator.run([(0, 0)], [None])
    assert figures(allocator) == (0, 0, 0, 0)


def test_a_copy_goes_its_own_way():
    allocator = PlainAllocator()
    taken = allocator.malloc(30 * MiB)
    other = allocator.copy()
    assert figures(other) == figures(allocator)
    other.free(taken)
    other.malloc(50 * MiB)
    assert figures(allocator) == (30 * MiB,) * 4
    assert other.reserved_bytes == 80 * MiB


def test_the_small_pool_is_refused():
    with pytest.raises(UsageError):
        PlainAllocator().malloc(SMALL_BYTES)
