"""Signals as things that have come, looked at between ticks; a row in the making is always finished."""

from __future__ import annotations

import signal
from collections import deque
from types import FrameType, TracebackType
from typing import Any

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class SignalInbox:
    """Catches what ends a program while it is open, and SIGCHLD, which only has to wake the sleeper.

    Args:
        wakeup: a non-blocking descriptor that every signal writes to.
    """

    def __init__(self, wakeup: int) -> None:
        self._wakeup = wakeup
        self._came: deque[int] = deque()
        self._before: dict[int, Any] = {}
        self._wakeup_before = -1
        self.stop_signal: int | None = None

    def __enter__(self) -> SignalInbox:
        """Start catching. A signal that the starter told us to ignore (nohup, a background job) stays ignored."""
        self._wakeup_before = signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        for number in CAUGHT:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._catch)
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put everything back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)

    def take(self) -> list[int]:
        """What has come since the last call, oldest first."""
        found = []
        while self._came:
            found.append(self._came.popleft())
        return found

    def _catch(self, number: int, _frame: FrameType | None) -> None:
        self._came.append(number)
        if self.stop_signal is None:
            self.stop_signal = number
