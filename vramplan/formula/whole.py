"""A traced pass played into an allocator for the whole model.

Every layer runs in its place. In a long model only the first and last few run in full: a layer between them repeats
what its neighbour's blocks have just made room for, so of it only what outlives it, or frees what came before it, is
played.
"""

from __future__ import annotations

from vramplan.allocator import CachingAllocator
from vramplan.allocator.blocks import Block
from vramplan.allocator.sizes import SMALL_BYTES
from vramplan.formula.traced import Piece, Traced

WHOLE_LAYERS = 3
"""Layers at each end that are played in full."""

Op = tuple[int, int]
"""(size, place) allocates; (0, place) frees a block of this piece; (-1 - piece, place from its end) one of another."""


class WholePass:
    """A traced pass, ready to be played as often as the run repeats it.

    Args:
        traced: the pass.
    """

    __slots__ = ("_counts", "_programs", "_traced")

    def __init__(self, traced: Traced) -> None:
        """See the class."""
        self._traced = traced
        self._programs, self._counts = _compile(traced)

    def play(self, allocator: CachingAllocator) -> list[Block]:
        """Play it into an allocator.

        Returns:
            The blocks that are held when it ends.
        """
        traced, programs, counts = self._traced, self._programs, self._counts
        pieces, total = traced.pieces, len(traced.stands_for)
        ends: dict[tuple[str, int | None], int] = {}
        blocks: list[Block | None] = []
        malloc, free = allocator.malloc, allocator.free
        for index, layer in traced.order:
            piece = pieces[index]
            base = len(blocks)
            blocks += [None] * counts[index]
            ends[piece.kind, layer] = len(blocks)
            inner = layer is not None and WHOLE_LAYERS <= layer < total - WHOLE_LAYERS
            for size, place in programs[index][inner]:
                if size > 0:
                    blocks[base + place] = malloc(size)
                elif not size:
                    block = blocks[base + place]
                    assert block is not None
                    free(block)
                    blocks[base + place] = None
                else:
                    for target in _targets(pieces[-1 - size], place, piece, layer, traced, ends):
                        block = blocks[target]
                        if block is not None:
                            free(block)
                            blocks[target] = None
        return [block for block in blocks if block is not None]


def _compile(traced: Traced) -> tuple[list[tuple[list[Op], list[Op]]], list[int]]:
    """For each piece its operations in full and without what lives and dies inside it, and how much it allocates.

    Requests of the small pool are left out (`Timeline.allocate`).
    """
    home: list[tuple[int, int] | None] = []
    counts: list[int] = []
    programs: list[tuple[list[Op], list[Op]]] = []
    for index, piece in enumerate(traced.pieces):
        full: list[Op] = []
        passing: set[int] = set()
        place = 0
        for event in traced.events[piece.start : piece.end]:
            if event > SMALL_BYTES:
                home.append((index, place))
                full.append((event, place))
                place += 1
            elif event > 0:
                home.append(None)
            else:
                owner = home[-1 - event]
                if owner is None:
                    continue
                if owner[0] == index:
                    full.append((0, owner[1]))
                    passing.add(owner[1])
                else:
                    full.append((-1 - owner[0], counts[owner[0]] - owner[1]))
        counts.append(place)
        programs.append((full, [op for op in full if op[0] < 0 or op[1] not in passing]))
    return programs, counts


def _targets(
    owner: Piece,
    from_end: int,
    piece: Piece,
    layer: int | None,
    traced: Traced,
    ends: dict[tuple[str, int | None], int],
) -> list[int]:
    """The blocks of the whole model that a free in `piece` of `layer` means."""
    if owner.layer is None:
        return [ends[owner.kind, None] - from_end]
    if piece.layer is not None and layer is not None:
        end = ends.get((owner.kind, layer + owner.layer - piece.layer))
        return [] if end is None else [end - from_end]
    stands_for = traced.stands_for
    layers = [other for other in range(len(stands_for)) if stands_for[other] == owner.layer]
    return [ends[owner.kind, other] - from_end for other in layers if (owner.kind, other) in ends]
