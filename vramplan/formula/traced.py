"""A traced phase: events cut at the borders of layers, which stand for every layer of the model.

From it come both the bytes in use (segments that compose) and the full stream of events (layers written out one by one)
that the allocator replays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from vramplan.formula.segments import Amounts, Level, Segment, measure, start_level
from vramplan.formula.tape import Tape

CACHE, FORWARD, BACKWARD = "cache", "forward", "backward"


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of the tape: one traced layer's forward or backward, or what lies between.

    Args:
        kind: `cache`, `before`, `forward`, `head`, `backward`, `after`.
        layer: the traced layer, or None.
        start, end: event counts.
    """

    kind: str
    layer: int | None
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Traced:
    """One pass over a model.

    Args:
        events: requests and frees of the traced layers.
        owners: the component of each serial.
        pieces: how the events are cut, in order.
        stands_for: for each layer of the model the traced layer that stands for it.
    """

    events: Sequence[int]
    owners: Sequence[str]
    pieces: tuple[Piece, ...]
    stands_for: tuple[int, ...]

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """Each piece's effect on the bytes in use."""
        return tuple(measure(self.events, self.owners, [piece.end for piece in self.pieces], self.repeats))

    @property
    def repeats(self) -> list[list[int]]:
        """[piece that allocated][piece that frees]: how many tensors of the whole model a free stands for.

        What lies between layers frees what a traced layer left for every layer that it stands for.
        """
        counts = [0] * len(self.stands_for)
        for traced in self.stands_for:
            counts[traced] += 1
        return [
            [counts[home.layer] if home.layer is not None and piece.layer is None else 1 for piece in self.pieces]
            for home in self.pieces
        ]

    @property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """(piece, how often it follows itself) in the order the whole model runs them."""
        runs: list[tuple[int, int]] = []
        for piece, _ in self.order:
            if runs and runs[-1][0] == piece:
                runs[-1] = (piece, runs[-1][1] + 1)
            else:
                runs.append((piece, 1))
        return tuple(runs)

    @cached_property
    def order(self) -> tuple[tuple[int, int | None], ...]:
        """(piece, layer of the model) in the order the whole model runs them."""
        by_layer = {(piece.kind, piece.layer): index for index, piece in enumerate(self.pieces)}
        order: list[tuple[int, int | None]] = []
        total = len(self.stands_for)
        done: set[str] = set()
        for index, piece in enumerate(self.pieces):
            if piece.layer is None:
                order.append((index, None))
            elif piece.kind not in done:
                done.add(piece.kind)
                layers = range(total - 1, -1, -1) if piece.kind == BACKWARD else range(total)
                order += [(by_layer[piece.kind, self.stands_for[layer]], layer) for layer in layers]
        return tuple(order)

    def level(self, resident: Amounts) -> Level:
        """Bytes in use over the pass, over what is resident."""
        level = start_level(resident)
        segments = self.segments
        for piece, times in self.runs:
            level.run(segments[piece], times)
        return level

    def unrolled(self) -> list[int]:
        """The events of the whole model.

        A free of something that a neighbouring layer allocated is found from that layer's end: the last things that
        layers of every kind allocate are what they hand on.
        """
        return _unroll(self)


def pieces_of(
    tape: Tape, forward_marks: Sequence[int], backward_marks: Sequence[int], *, cache_marks: Sequence[int] = (0,)
) -> tuple[Piece, ...]:
    """Cut a tape.

    Args:
        tape: after the pass.
        cache_marks: where each layer's cache, which was there before the pass, ends.
        forward_marks: event counts where the first layer's forward began and each one ended.
        backward_marks: where the backward reached the last layer and where each layer's ended, last layer first; empty
            where there was none.
    """
    count = len(forward_marks) - 1
    pieces = [
        Piece(kind=CACHE, layer=layer, start=cache_marks[layer], end=cache_marks[layer + 1])
        for layer in range(len(cache_marks) - 1)
    ]
    pieces.append(Piece(kind="before", layer=None, start=cache_marks[-1], end=forward_marks[0]))
    pieces += [
        Piece(kind=FORWARD, layer=layer, start=forward_marks[layer], end=forward_marks[layer + 1])
        for layer in range(count)
    ]
    position = forward_marks[-1]
    if backward_marks:
        pieces.append(Piece(kind="head", layer=None, start=position, end=backward_marks[0]))
        pieces += [
            Piece(kind=BACKWARD, layer=count - 1 - step, start=backward_marks[step], end=backward_marks[step + 1])
            for step in range(count)
        ]
        position = backward_marks[-1]
    pieces.append(Piece(kind="after", layer=None, start=position, end=len(tape.events)))
    return tuple(pieces)


def _unroll(traced: Traced) -> list[int]:
    events, pieces = traced.events, traced.pieces
    # For each serial of the trace: the piece that allocated it, and its place from that piece's end.
    home: list[tuple[int, int]] = []
    counts: list[int] = []
    for index, piece in enumerate(pieces):
        first = len(home)
        home += [(index, 0)] * sum(1 for event in events[piece.start : piece.end] if event > 0)
        counts.append(len(home) - first)
        for place in range(first, len(home)):
            home[place] = (index, len(home) - place)
    total = len(traced.stands_for)
    ends: dict[tuple[str, int | None], int] = {}  # (kind, layer of the model) -> serials allocated when it ended
    freed: set[int] = set()
    out: list[int] = []
    serials = 0
    for index, layer in traced.order:
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
                targets = _resolve(pieces[owner], from_end, piece, layer, traced.stands_for, ends, total)
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
