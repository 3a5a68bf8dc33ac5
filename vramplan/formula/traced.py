"""A traced pass: its order, and the bytes of everything in it.

From it come both the bytes in use and the steps of the whole model that the allocator replays (`whole.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from vramplan.formula.blocks import allocated
from vramplan.formula.layout import Layout, Piece
from vramplan.formula.segments import Amounts, Level, level_of
from vramplan.formula.tape import events_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Traced:
    """One pass over a model.

    Args:
        layout: the order of the traced layers.
        sizes: bytes of each serial.
    """

    layout: Layout
    sizes: Sequence[int]

    @cached_property
    def blocks(self) -> list[int]:
        """Bytes that each serial takes in the allocator."""
        known = {size: allocated(size) for size in set(self.sizes)}
        return list(map(known.__getitem__, self.sizes))

    @property
    def events(self) -> list[int]:
        """Requests and frees of the traced layers, as `vramplan.allocator.replay` takes them."""
        return events_of(self.layout.actions, self.sizes)

    def level(self, resident: Amounts) -> Level:
        """Bytes in use over the pass, over what is resident."""
        return level_of(self.layout, self.blocks, resident)

    def unrolled(self) -> list[int]:
        """The events of the whole model.

        A free of something that a neighbouring layer allocated is found from that layer's end: the last things that
        layers of every kind allocate are what they hand on.
        """
        return _unroll(self)


def _unroll(traced: Traced) -> list[int]:
    layout = traced.layout
    events, pieces = traced.events, layout.pieces
    # For each serial of the trace: the piece that allocated it, and its place from that piece's end.
    home: list[tuple[int, int]] = []
    counts: list[int] = []
    for index, piece in enumerate(pieces):
        first = len(home)
        home += [(index, 0)] * sum(1 for event in events[piece.start : piece.end] if event > 0)
        counts.append(len(home) - first)
        for place in range(first, len(home)):
            home[place] = (index, len(home) - place)
    total = len(layout.stands_for)
    ends: dict[tuple[str, int | None], int] = {}  # (kind, layer of the model) -> serials allocated when it ended
    freed: set[int] = set()
    out: list[int] = []
    serials = 0
    for index, layer in layout.order:
        piece = pieces[index]
        start = serials
        serials += counts[index]
        ends[piece.kind, layer] = serials
        seen = start
        for event in events[piece.start : piece.end]:
            if event > 0:
                out.append(event)
                seen += 1
                continue
            owner, from_end = home[-1 - event]
            if owner == index:
                targets = [serials - from_end]
            else:
                targets = _resolve(pieces[owner], from_end, piece, layer, layout.stands_for, ends, total)
            for target in targets:
                if target not in freed:
                    freed.add(target)
                    out.append(-1 - target)
    return out


def _resolve(
    owner: Piece,
    from_end: int,
    piece: Piece,
    layer: int | None,
    stands_for: Sequence[int],
    ends: dict[tuple[str, int | None], int],
    total: int,
) -> list[int]:
    """The serials of the whole model that a free in `piece` of `layer` means."""
    if owner.layer is None:
        return [ends[owner.kind, None] - from_end]
    if piece.layer is None or layer is None:
        layers = [other for other in range(total) if stands_for[other] == owner.layer]
    else:
        layers = [layer + owner.layer - piece.layer]
    return [ends[owner.kind, other] - from_end for other in layers if (owner.kind, other) in ends]
