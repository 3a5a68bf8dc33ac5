"""A traced pass played into an allocator for the whole model.

The first time every layer's forward runs in full, because what a passing tensor leaves free decides where the next
lasting one goes. A backward that leaves no gradients peaks in its first layers, and a pass that comes again finds the
segments of its first time: there, in the middle of a long model, only what outlives a layer, or frees what came before
it, is played. Not so in a second forward that keeps more than checkpoints, or comes after gradients: 3 to 8 % were
missed. `tests/unit/formula/test_whole.py` holds the rest to what everything in full reserves.
"""

from __future__ import annotations

from collections.abc import Iterator

from vramplan.allocator.plain import Block, Part, PlainAllocator, Slots, Step
from vramplan.allocator.sizes import MIN_BLOCK_BYTES, SMALL_BYTES
from vramplan.formula.layout import BACKWARD
from vramplan.formula.traced import Traced

WHOLE_LAYERS = 2
"""Layers at each end that are played in full where the rest is shortened."""
MOST_LASTING = 3
"""What a checkpointed layer may leave: its input and a little more. Layers that keep everything need room anew."""


class WholePass:
    """A traced pass, ready to be played as often as the run repeats it.

    Args:
        traced: the pass.
    """

    __slots__ = ("_full", "_layout", "_leaves", "_most", "_scripts", "_short", "_steps")

    def __init__(self, traced: Traced) -> None:
        """See the class."""
        self._layout = traced.layout
        # Requests of the small pool are left out (`Timeline.allocate`).
        self._scripts = scripts = traced.layout.scripts(tuple([size > SMALL_BYTES for size in traced.sizes]))
        self._steps = [-(-size // MIN_BLOCK_BYTES) for size in traced.sizes]
        self._steps += [-piece for piece in range(len(scripts) + 1)]
        self._full = [script.full.of(self._steps) for script in scripts]
        self._short: dict[int, list[Step]] = {}
        self._leaves = any(script.leaves for script in scripts)  # gradients, layer by layer
        self._most = max(script.num_slots for script in scripts)

    def play(self, allocator: PlainAllocator, *, again: bool) -> list[Block]:
        """Play it into an allocator.

        Args:
            allocator: where.
            again: whether the allocator still has the segments of an earlier time.

        Returns:
            What is held when it ends.
        """
        held: dict[tuple[str, int | None], Slots] = {}
        allocator.run(self._parts(allocator, held, again=again))
        if not self._leaves:
            return []
        return [block for slots in held.values() for block in slots if block is not None]

    def _parts(
        self, allocator: PlainAllocator, held: dict[tuple[str, int | None], Slots], *, again: bool
    ) -> Iterator[Part]:
        """Piece by piece, with what each holds put into `held`."""
        layout, scripts = self._layout, self._scripts
        pieces, total = layout.pieces, len(layout.stands_for)
        # What a free names in a layer that is not there is not there either.
        nowhere: Slots = [None] * self._most
        others = [nowhere] * len(pieces)
        settled: int | None = None  # a closed piece that did not grow the allocator: nor will it the next time
        for index, layer in layout.order:
            if index == settled:
                continue
            piece, script = pieces[index], scripts[index]
            slots: Slots = [None] * script.num_slots
            held[piece.kind, layer] = slots
            steps = self._full[index]
            if piece.layer is None or layer is None:
                yield self._everywhere(steps, slots, held)
                settled = None
                continue
            for owner in script.owners:
                home = pieces[owner]
                at = None if home.layer is None else layer + home.layer - piece.layer
                others[-1 - owner] = held.get((home.kind, at), nowhere)
            if piece.kind == BACKWARD:
                shortens = again or not script.leaves
            else:
                shortens = again and not self._leaves and script.num_lasting <= MOST_LASTING
            if shortens and WHOLE_LAYERS <= layer < total - WHOLE_LAYERS:
                if index not in self._short:
                    self._short[index] = script.short.of(self._steps)
                yield self._short[index], slots, others
                settled = None
                continue
            before = allocator.reserved_bytes
            yield steps, slots, others
            settled = index if script.is_closed and allocator.reserved_bytes == before else None

    def _everywhere(self, steps: list[Step], slots: Slots, held: dict[tuple[str, int | None], Slots]) -> Part:
        """What to run between layers: it frees what a traced layer left in every layer it stands for."""
        pieces, stands_for = self._layout.pieces, self._layout.stands_for
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
