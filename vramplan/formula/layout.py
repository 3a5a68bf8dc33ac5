"""The order of a traced pass, sizes left out: what is asked for and given back, cut at the borders of layers.

The traced layers stand for every layer of the model. Passes that differ in their sizes only share one layout, and what
follows from it is worked out once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from operator import itemgetter
from typing import NamedTuple, TypeVar

from vramplan.formula.tape import Tape

_T = TypeVar("_T")

CACHE, FORWARD, BACKWARD = "cache", "forward", "backward"

Change = tuple[int, int]
"""(serial, how many tensors of the whole model that stands for): more than 0 are asked for, less are given back."""


class Piece(NamedTuple):
    """A stretch of the tape: one traced layer's forward or backward, or what lies between.

    Args:
        kind: `cache`, `before`, `forward`, `head`, `backward`, `after`.
        layer: the traced layer, or None.
        start, end: counts of actions.
    """

    kind: str
    layer: int | None
    start: int
    end: int


class Steps(NamedTuple):
    """Steps of an allocator without their sizes.

    Args:
        pick: picks what each step asks for of a list of it.
        slots: of each step.
    """

    pick: Callable[[Sequence[int]], Sequence[int]]
    slots: tuple[int, ...]

    def of(self, whats: Sequence[int]) -> list[tuple[int, int]]:
        """The steps, each with what it asks for."""
        return list(zip(self.pick(whats), self.slots, strict=True))


def _steps(steps: Sequence[tuple[int, int]]) -> Steps:
    return Steps(pick=picker([what for what, _ in steps]), slots=tuple(slot for _, slot in steps))


class Script(NamedTuple):
    """The large tensors of one piece, as the allocator is to be told of them.

    Args:
        num_slots: how many it asks for.
        full: what and which slot, in order; what is a serial that is asked for, or, from the number of serials on, 0
            for a slot of its own that is given back, 1 + n for one of piece n, named from the end because layers
            differ in front.
        short: the same without what lives and dies inside it.
        num_lasting: how many it asks for that outlive the piece.
        owners: the other pieces of which it gives something back.
        leaves: whether something of it outlives the pass.
        is_closed: whether nothing of it outlives the piece, nor does it give anything of others back. Then it leaves
            the allocator as it found it, unless that had to grow.
    """

    num_slots: int
    full: Steps
    short: Steps
    num_lasting: int
    owners: tuple[int, ...]
    leaves: bool
    is_closed: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """The order of one pass.

    Args:
        actions: of the traced layers, as on a Tape.
        owners: the component of each serial.
        pieces: how the actions are cut, in order.
        stands_for: for each layer of the model the traced layer that stands for it.
    """

    actions: tuple[int, ...]
    owners: tuple[str, ...]
    pieces: tuple[Piece, ...]
    stands_for: tuple[int, ...]
    _scripts: dict[tuple[bool, ...], tuple[Script, ...]] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def homes(self) -> list[int]:
        """The piece in which each serial is asked for."""
        return [
            index
            for index, piece in enumerate(self.pieces)
            for one in self.actions[piece.start : piece.end]
            if one >= 0
        ]

    @cached_property
    def repeats(self) -> list[list[int]]:
        """[piece that asked][piece that gives back]: how many tensors of the whole model the latter stands for.

        What lies between layers frees what a traced layer left for every layer that it stands for.
        """
        counts = [0] * len(self.stands_for)
        for traced in self.stands_for:
            counts[traced] += 1
        return [
            [counts[home.layer] if home.layer is not None and piece.layer is None else 1 for piece in self.pieces]
            for home in self.pieces
        ]

    @cached_property
    def changes(self) -> list[list[Change]]:
        """What each piece does to the bytes in use, in order."""
        homes, repeats = self.homes, self.repeats
        return [
            [(one, 1) if one >= 0 else (-1 - one, -repeats[homes[-1 - one]][index]) for one in actions]
            for index, actions in enumerate(self.actions[piece.start : piece.end] for piece in self.pieces)
        ]

    @cached_property
    def multiples(self) -> list[Change]:
        """Changes that stand for more than one tensor: `courses` finds their bytes behind those of single ones."""
        return list(dict.fromkeys(one for changes in self.changes for one in changes if one[1] not in (1, -1)))

    @cached_property
    def courses(self) -> list[Callable[[Sequence[int]], Sequence[int]]]:
        """For each piece what picks the bytes of its changes, in order.

        They are picked of the bytes of each serial, those of each serial given back, and those of `multiples`.
        """
        num_serials = len(self.owners)
        places = {change: 2 * num_serials + place for place, change in enumerate(self.multiples)}
        for serial in range(num_serials):
            places[serial, 1], places[serial, -1] = serial, num_serials + serial
        return [picker([places[change] for change in changes]) for changes in self.changes]

    @cached_property
    def nets(self) -> list[tuple[tuple[str, ...], list[Change]]]:
        """For each piece the components that it touches, in order, and its changes without what cancels out."""
        found = []
        for changes in self.changes:
            net: dict[int, int] = {}
            for serial, times in changes:
                net[serial] = net.get(serial, 0) + times
            touched = tuple(dict.fromkeys(self.owners[serial] for serial in net))
            found.append((touched, [(serial, times) for serial, times in net.items() if times]))
        return found

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

    @cached_property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """(piece, how often it follows itself) in the order the whole model runs them."""
        runs: list[tuple[int, int]] = []
        for piece, _ in self.order:
            if runs and runs[-1][0] == piece:
                runs[-1] = (piece, runs[-1][1] + 1)
            else:
                runs.append((piece, 1))
        return tuple(runs)

    def scripts(self, large: tuple[bool, ...]) -> tuple[Script, ...]:
        """Each piece's script.

        Args:
            large: for each serial whether the large pool has it.
        """
        found = self._scripts.get(large)
        if found is None:
            found = self._scripts[large] = tuple(_scripts(self, large))
        return found


def picker(places: Sequence[int]) -> Callable[[Sequence[_T]], Sequence[_T]]:
    """What picks the items at these places of a sequence, without running code of ours for each."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda items: [items[place] for place in places]


def pieces_of(
    tape: Tape, forward_marks: Sequence[int], backward_marks: Sequence[int], *, cache_marks: Sequence[int] = (0,)
) -> tuple[Piece, ...]:
    """Cut a tape.

    Args:
        tape: after the pass.
        cache_marks: where each layer's cache, which was there before the pass, ends.
        forward_marks: where the first layer's forward began and each one ended.
        backward_marks: where the backward reached the last layer and where each layer's ended, last layer first; empty
            where there was none.
    """
    count = len(forward_marks) - 1
    pieces = [
        Piece(kind=CACHE, layer=layer, start=start, end=end) for layer, (start, end) in enumerate(pairwise(cache_marks))
    ]
    pieces.append(Piece(kind="before", layer=None, start=cache_marks[-1], end=forward_marks[0]))
    pieces += [
        Piece(kind=FORWARD, layer=layer, start=start, end=end)
        for layer, (start, end) in enumerate(pairwise(forward_marks))
    ]
    position = forward_marks[-1]
    if backward_marks:
        pieces.append(Piece(kind="head", layer=None, start=position, end=backward_marks[0]))
        pieces += [
            Piece(kind=BACKWARD, layer=count - 1 - step, start=start, end=end)
            for step, (start, end) in enumerate(pairwise(backward_marks))
        ]
        position = backward_marks[-1]
    pieces.append(Piece(kind="after", layer=None, start=position, end=len(tape.actions)))
    return tuple(pieces)


def _scripts(layout: Layout, large: tuple[bool, ...]) -> list[Script]:
    num_serials = len(large)
    places: list[int] = [0] * num_serials
    counts: list[int] = []
    full: list[list[tuple[int, int]]] = []
    passing: list[set[int]] = []
    owners: list[dict[int, None]] = []
    lasting: list[int] = []
    for index, piece in enumerate(layout.pieces):
        steps: list[tuple[int, int]] = []
        gone: set[int] = set()
        others: dict[int, None] = {}
        count = 0
        for action in layout.actions[piece.start : piece.end]:
            serial = action if action >= 0 else -1 - action
            if not large[serial]:
                continue
            if action >= 0:
                places[serial] = count
                steps.append((serial, count))
                count += 1
                continue
            owner, place = layout.homes[serial], places[serial]
            if owner == index:
                steps.append((num_serials, place))
                gone.add(place)
            else:
                steps.append((num_serials + 1 + owner, place - counts[owner]))
                others[owner] = None
                lasting[owner] -= 1
        counts.append(count)
        full.append(steps)
        passing.append(gone)
        owners.append(others)
        lasting.append(count - len(gone))
    return [
        Script(
            num_slots=count,
            full=_steps(steps),
            short=_steps([step for step in steps if step[0] > num_serials or step[1] not in gone]),
            num_lasting=count - len(gone),
            owners=tuple(others),
            leaves=left > 0,
            is_closed=not others and len(gone) == count,
        )
        for count, steps, gone, others, left in zip(counts, full, passing, owners, lasting, strict=True)
    ]
