"""Rows on a descriptor that is not ours to lock or to cut: standard output, wherever the shell has sent it."""

from __future__ import annotations

import os
import select

_MOST_WAITING_BYTES = 8 * 2**20


class StreamOutput:
    """Writes whole ticks; a reader that has gone away ends it quietly, as it ends `nvidia-smi | head`.

    What a full disk did not take is kept and written first at the next tick, from the very byte it was cut at.

    Args:
        descriptor: to write to.
        header: the first line without its end; empty for none.
    """

    def __init__(self, descriptor: int, header: str) -> None:
        self._descriptor = descriptor
        self._waiting = bytearray(f"{header}\n".encode() if header else b"")
        self._num_rows_waiting = 0
        self.is_closed = False
        self.error: str | None = None
        self.num_rows_written = 0
        self.num_rows_lost = 0

    def write(self, lines: list[str]) -> bool:
        """Add a tick's lines; True when they, and all that waited before them, were taken."""
        if self.is_closed:
            return False
        if len(self._waiting) < _MOST_WAITING_BYTES:
            self._waiting += "".join(f"{line}\n" for line in lines).encode()
            self._num_rows_waiting += len(lines)
        else:
            self.num_rows_lost += len(lines)
        while self._waiting:
            try:
                del self._waiting[: os.write(self._descriptor, self._waiting)]
            except BlockingIOError:
                select.select([], [self._descriptor], [])
            except BrokenPipeError:
                self.is_closed = True
                return False
            except OSError as error:
                self.error = error.strerror
                return False
        self.error = None
        self.num_rows_written += self._num_rows_waiting
        self._num_rows_waiting = 0
        return True

    def close(self) -> None:
        """Try once more what waits, and count the rest as lost."""
        if self._num_rows_waiting and not self.is_closed:
            self.write([])
            self.num_rows_lost += self._num_rows_waiting
            self._num_rows_waiting = 0
