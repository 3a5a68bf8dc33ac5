"""Stretches of a tape as (what stays, how high it got), which compose: like layers are traced once and repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vramplan.formula.blocks import allocated

Amounts = dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """What a stretch of events does to the bytes in use.

    Args:
        net: bytes by component that it leaves behind (negative where it frees what was there before).
        net_bytes: their sum.
        peak: bytes by component, relative to its start, at its highest point.
        peak_bytes: their sum; at least 0.
    """

    net: Amounts
    net_bytes: int
    peak: Amounts
    peak_bytes: int


def measure(
    events: Sequence[int], owners: Sequence[str], marks: Sequence[int], repeats: Sequence[Sequence[int]] | None = None
) -> list[Segment]:
    """Cut a tape at `marks` (event counts) and measure each piece.

    Args:
        events: requests and frees, as on a Tape.
        owners: the component of each serial.
        marks: where pieces end; the last is the end of the tape.
        repeats: [piece that allocated][piece that frees]: how many tensors a free stands for; 1 without.
    """
    blocks = {event: allocated(event) for event in set(events) if event > 0}
    sizes: list[int] = []
    homes: list[int] = []
    pieces: list[Segment] = []
    start = 0
    for piece, end in enumerate(marks):
        net: Amounts = {}
        total = highest = 0
        peak: Amounts = {}
        is_highest = False  # the amounts are written down once they are about to fall
        for event in events[start:end]:
            if event > 0:
                size = blocks[event]
                owner = owners[len(sizes)]
                sizes.append(size)
                homes.append(piece)
                net[owner] = net.get(owner, 0) + size
                total += size
                if total > highest:
                    highest, is_highest = total, True
            else:
                if is_highest:
                    peak, is_highest = net.copy(), False
                size = sizes[-1 - event]
                if repeats is not None:
                    size *= repeats[homes[-1 - event]][piece]
                owner = owners[-1 - event]
                net[owner] = net.get(owner, 0) - size
                total -= size
        if is_highest:
            peak = net.copy()
        pieces.append(Segment(net=net, net_bytes=total, peak=peak, peak_bytes=highest))
        start = end
    return pieces


@dataclass(slots=True)
class Level:
    """Bytes in use while segments are put one after another, and the highest they got."""

    now: Amounts
    now_bytes: int
    peak: Amounts
    peak_bytes: int

    def run(self, segment: Segment, times: int = 1) -> None:
        """Append a segment `times` times."""
        if times < 1:
            return
        # Each repetition starts net_bytes higher (or lower) than the one before.
        before = times - 1 if segment.net_bytes > 0 else 0
        candidate = self.now_bytes + before * segment.net_bytes + segment.peak_bytes
        if candidate > self.peak_bytes:
            self.peak_bytes = candidate
            self.peak = _plus(_plus(self.now, segment.net, before), segment.peak, 1)
        self.now = _plus(self.now, segment.net, times)
        self.now_bytes += times * segment.net_bytes


def start_level(amounts: Amounts) -> Level:
    """Nothing run yet, with `amounts` in use."""
    total = sum(amounts.values())
    return Level(now=dict(amounts), now_bytes=total, peak=dict(amounts), peak_bytes=total)


def _plus(amounts: Amounts, other: Amounts, times: int) -> Amounts:
    if not times:
        return dict(amounts)
    result = dict(amounts)
    for owner, num_bytes in other.items():
        result[owner] = result.get(owner, 0) + times * num_bytes
    return result
