"""When the next tick is due: on a grid of the monotonic clock, so that it neither drifts nor catches up in a burst."""

from __future__ import annotations


class Pacer:
    """The grid `start + n × interval`.

    Args:
        start: monotonic seconds of tick 0.
        interval_seconds: between ticks.
    """

    def __init__(self, start: float, interval_seconds: float) -> None:
        if interval_seconds <= 0:
            raise ValueError("an interval is longer than zero seconds")
        self._start = start
        self._interval = interval_seconds
        self.number = 0

    @property
    def due(self) -> float:
        """Monotonic seconds of the tick that comes next."""
        return self._start + self.number * self._interval

    def number_at(self, now: float) -> int:
        """The tick that is taken at `now`: the one that was due, or a later one where that is long over."""
        return max(self.number, int((now - self._start) / self._interval))

    def advance(self, taken: int, now: float) -> None:
        """After tick `taken`: the next point of the grid that is still to come, so nothing missed is made up for."""
        self.number = max(taken, int((now - self._start) / self._interval)) + 1
