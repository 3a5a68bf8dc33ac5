"""A traced pass played into an allocator for the whole model.

The first time every layer's forward runs in full, because what a passing tensor leaves free decides where the next
lasting one goes. A backward that leaves no gradients peaks in its first layers, and a pass that comes again finds the
segments of its first time: there, in the middle of a long model, only what outlives a layer, or frees what came before
it, is played. Not so in a second forward that keeps more than checkpoints, or comes after gradients: 3 to 8 % were
missed. `tests/unit/formula/test_whole.py` holds the rest to what everything in full reserves.
"""

from __future__ import annotations

from vramplan.allocator.plain import Block, PlainAllocator, Slots, Step
from vramplan.allocator.sizes import MIN_BLOCK_BYTES, SMALL_BYTES, round_up
from vramplan.formula.traced import BACKWARD, Traced

WHOLE_LAYERS = 2
"""Layers at each end that are played in full where the rest is shortened."""
MOST_LASTING = 3
"""What a checkpointed layer may leave: its input and a little more. Layers that keep everything need room anew."""


class WholePass:
    """A traced pass, ready to be played as often as the run repeats it.

    Args:
        traced: the pass.
    """

    __slots__ = ("_counts", "_full", "_is_lean", "_leaves", "_owners", "_short", "_traced")

    def __init__(self, traced: Traced) -> None:
        """See the class."""
        self._traced = traced
        self._counts: list[int] = []
        self._full: list[list[Step]] = []
        self._short: list[list[Step]] = []
        self._owners: list[list[int]] = []
        self._leaves = self._compile()
        self._is_lean = [sum(1 for size, _ in steps if size > 0) <= MOST_LASTING for steps in self._short]

    def play(self, allocator: PlainAllocator, *, again: bool) -> list[Block]:
        """Play it into an allocator.

        Args:
            allocator: where.
            again: whether the allocator still has the segments of an earlier time.

        Returns:
            What is held when it ends.
        """
        traced = self._traced
        pieces, total = traced.pieces, len(traced.stands_for)
        leaves = any(self._leaves)  # gradients, layer by layer
        held: dict[tuple[str, int | None], Slots] = {}
        # What a free names in a layer that is not there is not there either.
        nowhere: Slots = [None] * max(self._counts)
        others = [nowhere] * len(pieces)
        for index, layer in traced.order:
            piece = pieces[index]
            held[piece.kind, layer] = slots = [None] * self._counts[index]
            steps = self._full[index]
            if piece.layer is None or layer is None:
                allocator.run(*self._everywhere(steps, slots, held))
                continue
            for owner in self._owners[index]:
                home = pieces[owner]
                at = None if home.layer is None else layer + home.layer - piece.layer
                others[-1 - owner] = held.get((home.kind, at), nowhere)
            if piece.kind == BACKWARD:
                shortens = again or not self._leaves[index]
            else:
                shortens = again and not leaves and self._is_lean[index]
            if shortens and WHOLE_LAYERS <= layer < total - WHOLE_LAYERS:
                steps = self._short[index]
            allocator.run(steps, slots, others)
        return [block for slots in held.values() for block in slots if block is not None]

    def _everywhere(
        self, steps: list[Step], slots: Slots, held: dict[tuple[str, int | None], Slots]
    ) -> tuple[list[Step], Slots, list[Slots]]:
        """What to run between layers: it frees what a traced layer left in every layer it stands for."""
        pieces, stands_for = self._traced.pieces, self._traced.stands_for
        out: list[Step] = []
        others: list[Slots] = []
        for size, place in steps:
            if size >= 0:
                out.append((size, place))
                continue
            home = pieces[-1 - size]
            layers = [None] if home.layer is None else [at for at, one in enumerate(stands_for) if one == home.layer]
            for at in layers:
                if (home.kind, at) in held:
                    others.append(held[home.kind, at])
                    out.append((-len(others), place))
        return out, slots, others[::-1]

    def _compile(self) -> list[bool]:
        """For each piece its steps in full and without what lives and dies inside it.

        Requests of the small pool are left out (`Timeline.allocate`).

        Returns:
            Whether something of the piece outlives the pass.
        """
        homes: list[tuple[int, int] | None] = []
        lasting: list[int] = []
        for index, piece in enumerate(self._traced.pieces):
            full: list[Step] = []
            passing: set[int] = set()
            owners: set[int] = set()
            count = 0
            for event in self._traced.events[piece.start : piece.end]:
                if event > SMALL_BYTES:
                    homes.append((index, count))
                    full.append((round_up(event, MIN_BLOCK_BYTES), count))
                    count += 1
                elif event > 0:
                    homes.append(None)
                elif (home := homes[-1 - event]) is not None:
                    owner, place = home
                    if owner == index:
                        full.append((0, place))
                        passing.add(place)
                    else:
                        full.append((-1 - owner, place - self._counts[owner]))  # from its end: layers differ
                        owners.add(owner)
                        lasting[owner] -= 1
            self._counts.append(count)
            self._full.append(full)
            self._short.append([step for step in full if step[0] < 0 or step[1] not in passing])
            self._owners.append(list(owners))
            lasting.append(count - len(passing))
        return [num > 0 for num in lasting]
