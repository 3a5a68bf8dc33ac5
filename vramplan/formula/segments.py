"""The bytes in use over a pass: pieces that are measured once and repeated for every layer they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from operator import neg
from typing import NamedTuple

from vramplan.formula.layout import Layout

Amounts = dict[str, int]


class Level(NamedTuple):
    """Bytes in use after a pass, and at its highest point.

    Args:
        now_bytes: in use when it ends.
        peak: bytes by component at the highest point.
        peak_bytes: their sum.
    """

    now_bytes: int
    peak: Amounts
    peak_bytes: int


def level_of(layout: Layout, blocks: Sequence[int], resident: Amounts) -> Level:
    """Bytes in use over a pass of the whole model, over what is resident.

    Args:
        layout: its order.
        blocks: bytes in the allocator of each serial.
        resident: bytes by component before it.
    """
    changed = [*blocks, *map(neg, blocks), *(times * blocks[serial] for serial, times in layout.multiples)]
    courses = [list(accumulate(pick(changed))) or [0] for pick in layout.courses]
    highs = [max(course) for course in courses]
    now = highest = sum(resident.values())
    at: tuple[int, int] | None = None
    for position, (piece, times) in enumerate(layout.runs):
        net = courses[piece][-1]
        # Each repetition starts `net` higher (or lower) than the one before.
        before = times - 1 if net > 0 else 0
        candidate = now + before * net + highs[piece]
        if candidate > highest:
            highest, at = candidate, (position, before)
        now += times * net
    peak = dict(resident)
    if at is not None:
        last, before = at
        for piece, times in layout.runs[:last]:
            _add_net(peak, layout, blocks, piece, times)
        piece, _ = layout.runs[last]
        if before:
            _add_net(peak, layout, blocks, piece, before)
        for serial, times in layout.changes[piece][: courses[piece].index(highs[piece]) + 1]:
            owner = layout.owners[serial]
            peak[owner] = peak.get(owner, 0) + times * blocks[serial]
    return Level(now_bytes=now, peak=peak, peak_bytes=highest)


def _add_net(amounts: Amounts, layout: Layout, blocks: Sequence[int], piece: int, times: int) -> None:
    """What a piece leaves behind, `times` times."""
    touched, changes = layout.nets[piece]
    for owner in touched:
        amounts.setdefault(owner, 0)
    for serial, each in changes:
        amounts[layout.owners[serial]] += times * each * blocks[serial]
