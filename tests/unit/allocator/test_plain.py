"""PlainAllocator holds what CachingAllocator holds, after every operation."""

from __future__ import annotations

import gc
import random
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from vramplan.allocator.blocks import Block as WholeBlock
from vramplan.allocator.caching import CachingAllocator
from vramplan.allocator.plain import Block, PlainAllocator, Slots, Step
from vramplan.allocator.sizes import MIN_BLOCK_BYTES, SMALL_BYTES
from vramplan.units import MiB

# Few sizes, so that free blocks of one size compete and the lowest address has to win; on both sides of every rule.
SIZES = st.one_of(
    st.sampled_from(
        [MiB + 1, 2 * MiB, 3 * MiB, 9 * MiB, 10 * MiB - 1, 10 * MiB, 19 * MiB, 20 * MiB, 21 * MiB, 64 * MiB]
    ),
    st.integers(min_value=SMALL_BYTES + 1, max_value=96 * MiB),
)
ACTIONS = st.lists(st.one_of(SIZES, st.just("free"), st.just("free"), st.just("empty_cache")), max_size=120)


def length_of(num_bytes: int) -> int:
    return -(-num_bytes // MIN_BLOCK_BYTES)


def run(allocator: PlainAllocator, steps: list[Step], slots: Slots, others: Sequence[Slots] = ()) -> None:
    allocator.run([(steps, slots, others)])


def malloc(allocator: PlainAllocator, num_bytes: int) -> Block:
    slots: Slots = [None]
    run(allocator, [(length_of(num_bytes), 0)], slots)
    (block,) = slots
    assert block is not None
    return block


def free(allocator: PlainAllocator, block: Block) -> None:
    run(allocator, [(0, 0)], [block])


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
    held: list[tuple[WholeBlock, Block]] = []
    for action in actions:
        if action == "empty_cache":
            whole.empty_cache()
            plain.empty_cache()
        elif action == "free":
            if held:
                block, taken = held.pop(choice.randrange(len(held)))
                whole.free(block)
                free(plain, taken)
        else:
            held.append((whole.malloc(action), malloc(plain, action)))
            assert held[-1][0].size == held[-1][1][1] * MIN_BLOCK_BYTES
        assert figures(plain) == figures(whole)


@given(sizes=st.lists(SIZES, min_size=1, max_size=30), choice=st.randoms(use_true_random=False))
def test_many_steps_at_once_are_the_steps_one_by_one(sizes, choice):
    steps: list[Step] = []
    held: list[int] = []
    for slot, size in enumerate(sizes):
        steps.append((length_of(size), slot))
        held.append(slot)
        if choice.random() < 0.6:
            steps.append((0, held.pop(choice.randrange(len(held)))))
    together, apart = PlainAllocator(), PlainAllocator()
    slots: Slots = [None] * len(sizes)
    run(together, steps, slots)
    taken: dict[int, Block] = {}
    for size, slot in steps:
        if size:
            taken[slot] = malloc(apart, size * MIN_BLOCK_BYTES)
        else:
            free(apart, taken.pop(slot))
    assert figures(together) == figures(apart)
    assert {slot: block[:2] for slot, block in enumerate(slots) if block is not None} == {
        slot: block[:2] for slot, block in taken.items()
    }


def test_a_free_may_name_the_slots_of_others_from_their_end():
    allocator = PlainAllocator()
    first: Slots = [None, None]
    second: Slots = [None]
    run(allocator, [(length_of(2 * MiB), 0), (length_of(4 * MiB), 1)], first)
    run(allocator, [(length_of(6 * MiB), 0), (-1, -1)], second, [[None], first])
    assert [block is not None for block in (*first, *second)] == [True, False, True]
    assert allocator.allocated_bytes == 8 * MiB


def test_an_empty_slot_is_given_back_without_effect():
    allocator = PlainAllocator()
    run(allocator, [(0, 0)], [None])
    assert figures(allocator) == (0, 0, 0, 0)


def test_a_copy_goes_its_own_way():
    allocator = PlainAllocator()
    taken = malloc(allocator, 30 * MiB)
    other, (own,) = allocator.copy([taken])
    assert figures(other) == figures(allocator)
    free(other, own)
    malloc(other, 50 * MiB)
    assert figures(allocator) == (30 * MiB,) * 4
    assert other.reserved_bytes == 80 * MiB


@given(actions=ACTIONS, choice=st.randoms(use_true_random=False), closes=st.booleans())
def test_a_copy_does_what_its_original_would(actions, choice, closes):
    """Half of what is in use may be given back to the copy; whether the original was closed makes no difference."""
    original = PlainAllocator()
    held: list[Block] = []
    half = len(actions) // 2
    play(original, actions[:half], held, choice)
    mine = held[: len(held) // 2]
    if closes:
        seen = [figures(original)]
        original.close()
        assert [figures(original)] == seen
    copy, copies = original.copy(mine)
    if closes:
        original, mine = original.copy(mine)
    state = choice.getstate()
    play(copy, actions[half:], copies, choice)
    choice.setstate(state)
    play(original, actions[half:], mine, choice)
    assert figures(copy) == figures(original)
    assert [block[:2] for block in copies] == [block[:2] for block in mine]


def play(allocator: PlainAllocator, actions: list[object], held: list[Block], choice: random.Random) -> None:
    for action in actions:
        if action == "empty_cache":
            allocator.empty_cache()
        elif isinstance(action, int):
            held.append(malloc(allocator, action))
        elif held:
            free(allocator, held.pop(choice.randrange(len(held))))


def test_nothing_is_left_for_the_collector_once_it_is_closed():
    gc.collect()
    allocator = PlainAllocator()
    slots: Slots = [None] * 40
    for length, places in ((length_of(30 * MiB), range(20)), (length_of(3 * MiB), range(20, 40))):
        run(allocator, [(length, slot) for slot in places], slots)
        run(allocator, [(0, slot) for slot in places[::3]], slots)
    allocator.close()
    del allocator, slots
    assert gc.collect() == 0
