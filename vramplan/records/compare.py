"""Two sides beside each other: what was asked of them differently, and how far their numbers are apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vramplan.records.side import TOTALS, Side, SidePhase


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One quantity of both sides, in bytes, None where a side does not know it."""

    name: str
    a_bytes: int | None
    b_bytes: int | None

    @property
    def difference_bytes(self) -> int | None:
        """B less A."""
        return None if self.a_bytes is None or self.b_bytes is None else self.b_bytes - self.a_bytes

    @property
    def difference_ratio(self) -> float | None:
        """The same against A: None where a side does not know, or A is 0."""
        difference = self.difference_bytes
        return None if difference is None or not self.a_bytes else difference / self.a_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseDifference:
    """One phase.

    Args:
        name: of the phase.
        only_in: `a` or `b` where the other has no such phase, else None.
        totals: allocated, reserved, device_used.
        components: those that are not 0 in both; None where a side knows none.
    """

    name: str
    only_in: str | None
    totals: tuple[Difference, ...]
    components: tuple[Difference, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A setting or a version that differs."""

    key: str
    a: Any
    b: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Two sides.

    Args:
        a, b: the sides; A is what B is held against.
        inputs: settings that differ, and the card.
        versions: that differ.
        phases: in A's order, then those of B alone.
        peak: the highest each quantity gets, over the phases of a side.
        tolerance_ratio: how far totals may be apart, or None.
        beyond: sentences on totals that are farther apart.
    """

    a: Side
    b: Side
    inputs: tuple[Setting, ...]
    versions: tuple[Setting, ...]
    phases: tuple[PhaseDifference, ...]
    peak: tuple[Difference, ...]
    tolerance_ratio: float | None
    beyond: tuple[str, ...]


def compare(a: Side, b: Side, *, tolerance_ratio: float | None = None) -> Compared:
    """Hold B against A."""
    phases = tuple(_phases(a, b))
    card = (Setting(key="card", a=a.gpu, b=b.gpu),) if a.gpu != b.gpu and a.gpu and b.gpu else ()
    return Compared(
        a=a,
        b=b,
        inputs=(*card, *_settings(a.inputs, b.inputs, left_out=("run", "stack", "gpu"))),
        versions=tuple(_settings(a.versions, b.versions)),
        phases=phases,
        peak=tuple(Difference(name=name, a_bytes=_peak(a, name), b_bytes=_peak(b, name)) for name in TOTALS),
        tolerance_ratio=tolerance_ratio,
        beyond=() if tolerance_ratio is None else tuple(_beyond(phases, tolerance_ratio)),
    )


def _settings(a: Mapping[str, Any], b: Mapping[str, Any], left_out: tuple[str, ...] = ()) -> Iterator[Setting]:
    """What both sides say, and say differently: what one leaves out is a default that the other has resolved."""
    for key, value in a.items():
        other = b.get(key)
        if key not in left_out and value is not None and other is not None and value != other:
            yield Setting(key=key, a=value, b=other)


def _phases(a: Side, b: Side) -> Iterator[PhaseDifference]:
    for phase in a.phases:
        other = b.phase(phase.name)
        yield _phase(phase.name, phase, other, "a" if other is None else None)
    for phase in b.phases:
        if a.phase(phase.name) is None:
            yield _phase(phase.name, None, phase, "b")


def _phase(name: str, a: SidePhase | None, b: SidePhase | None, only_in: str | None) -> PhaseDifference:
    totals = tuple(
        Difference(
            name=total,
            a_bytes=None if a is None else a.totals[total],
            b_bytes=None if b is None else b.totals[total],
        )
        for total in TOTALS
    )
    in_a, in_b = (None if side is None else side.components for side in (a, b))
    known = in_a is not None and in_b is not None if only_in is None else in_a is not None or in_b is not None
    if not known:
        return PhaseDifference(name=name, only_in=only_in, totals=totals, components=None)
    pairs = [
        Difference(
            name=one,
            a_bytes=None if in_a is None else in_a.get(one, 0),
            b_bytes=None if in_b is None else in_b.get(one, 0),
        )
        for one in dict.fromkeys([*(in_a or {}), *(in_b or {})])
    ]
    kept = tuple(pair for pair in pairs if pair.a_bytes or pair.b_bytes)
    return PhaseDifference(name=name, only_in=only_in, totals=totals, components=kept)


def _peak(side: Side, name: str) -> int | None:
    sizes = [size for phase in side.phases if (size := phase.totals[name]) is not None]
    return max(sizes, default=None)


def _beyond(phases: tuple[PhaseDifference, ...], tolerance_ratio: float) -> Iterator[str]:
    num_compared = 0
    for phase in phases:
        for total in phase.totals:
            if total.difference_bytes is None:
                continue
            num_compared += 1
            ratio = total.difference_ratio
            if ratio is None:
                if total.difference_bytes:
                    yield f"{phase.name}: {total.name} is 0 bytes in A and {total.b_bytes:,} in B"
            elif abs(ratio) > tolerance_ratio:
                yield f"{phase.name}: {total.name} differs by {ratio:+.2%}, more than {tolerance_ratio:.2%}"
    if not num_compared:
        yield "nothing that both have could be compared"
