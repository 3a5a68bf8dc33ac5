"""A log on disk that never loses a row.

One `write` per tick of whole lines, on a descriptor opened to append; one writer a file, held by a lock; a resumed file
keeps its header and loses only the torn line that a crash left at its end (Linux copies a write page by page, so a kill
can cut one at a page's end: mm/filemap.c generic_perform_write). A full disk does not stop the run: rows wait
in memory, a line cut short on disk is taken back, and what had to be given up is counted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import deque
from pathlib import Path

from vramplan.errors import UsageError

_MOST_WAITING_BYTES = 8 * 2**20
"""About half a day of 8 GPUs at one tick a second: past it the oldest waiting rows are given up."""
_HEADER_LIMIT = 65536
_BLOCK = 65536


def _lock(descriptor: int, path: Path) -> str | None:
    """Take the file for this process; a note where the file system has no locks.

    Raises:
        UsageError: another process writes this file.
    """
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"another process is writing {path}", hint="give this one another -o FILE") from None
    except OSError as error:
        return f"{path} cannot be locked here ({error.strerror}): keep other writers away from it"
    return None


class LogFile:
    """One CSV file, or one file a part under rotation.

    Args:
        path: where; later parts are `NAME.1.csv`, `NAME.2.csv`, …
        header: the first line without its end; empty for a log without one.
        force: begin a file anew whose header is another.
        rotate_bytes: start the next part before a file grows beyond this; None for one file.
        fsync_ticks: reach the disk itself every so many ticks; 0 leaves that to the system.

    Raises:
        UsageError: the file cannot be opened, is being written by another, or holds another kind of log.
    """

    def __init__(
        self,
        path: Path,
        header: str,
        *,
        force: bool = False,
        rotate_bytes: int | None = None,
        fsync_ticks: int = 0,
    ) -> None:
        self.path = self._base = path
        self.notes: list[str] = []
        self.error: str | None = None
        self.num_rows_written = 0
        self.num_rows_lost = 0
        self._header = (header + "\n").encode() if header else b""
        self._force = force
        self._rotate_bytes = rotate_bytes
        self._fsync_ticks = fsync_ticks
        self._ticks_since_fsync = 0
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._part = 0
        self._base_descriptor: int | None = None  # keeps the lock on the first part while a later one is written
        self._descriptor, self._size = self._open(path)
        self._needs_header = not self._size
        if rotate_bytes is not None:
            self._skip_full_parts()

    @property
    def num_rows_waiting(self) -> int:
        """Rows that a full disk keeps in memory."""
        return sum(block.count(b"\n") for block in self._waiting)

    def write(self, lines: list[str]) -> bool:
        """Add a tick's lines; True when they, and all that waited before them, are in the file."""
        if lines:
            block = ("\n".join(lines) + "\n").encode()
            self._waiting.append(block)
            self._waiting_bytes += len(block)
        while self._waiting and self._write_first():
            self._waiting_bytes -= len(self._waiting[0])
            self.num_rows_written += self._waiting.popleft().count(b"\n")
        while self._waiting_bytes > _MOST_WAITING_BYTES:
            self._waiting_bytes -= len(self._waiting[0])
            self.num_rows_lost += self._waiting.popleft().count(b"\n")
        if not self._waiting:
            self.error = None
            self._sync()
        return not self._waiting

    def close(self) -> None:
        """Try once more what waits, count the rest as lost, and let the file go."""
        self.write([])
        self.num_rows_lost += self.num_rows_waiting
        self._waiting.clear()
        for descriptor in {self._descriptor, self._base_descriptor} - {None}:
            with contextlib.suppress(OSError):
                os.close(descriptor)  # type: ignore[arg-type]

    def _write_first(self) -> bool:
        block = self._waiting[0]
        if self._rotate_bytes is not None and self._size + len(block) > self._rotate_bytes > len(self._header):
            try:
                self._next_part()
            except UsageError as error:
                self.error = error.message
                return False
        start = self._header if self._needs_header else b""  # it comes in one write with the first row, or not at all
        try:
            written = os.write(self._descriptor, start + block)
        except OSError as error:
            self.error = error.strerror or errno.errorcode.get(error.errno or 0, "write error")
            return False
        if written < len(start) + len(block):
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            self.error = os.strerror(errno.ENOSPC)
            return False
        self._size += written
        self._needs_header = False
        return True

    def _sync(self) -> None:
        self._ticks_since_fsync += 1
        if self._fsync_ticks and self._ticks_since_fsync >= self._fsync_ticks:
            self._ticks_since_fsync = 0
            with contextlib.suppress(OSError):
                os.fsync(self._descriptor)

    def _open(self, path: Path) -> tuple[int, int]:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            try:
                descriptor = os.open(path, flags, 0o644)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EACCES, errno.ENXIO, errno.ESPIPE):
                    raise
                descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)  # a FIFO or a terminal
        except OSError as error:
            raise UsageError(f"{path} cannot be written ({error.strerror})", hint="choose another -o FILE") from None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return descriptor, 0
            note = _lock(descriptor, path)
            if note:
                self.notes.append(note)
            return descriptor, self._resume(descriptor, path)
        except BaseException:
            os.close(descriptor)
            raise

    def _resume(self, descriptor: int, path: Path) -> int:
        """The size to append at, after what a crash left torn is taken away.

        Raises:
            UsageError: the file holds something else.
        """
        size = os.fstat(descriptor).st_size
        if not size:
            return 0
        start = os.pread(descriptor, max(_HEADER_LIMIT, len(self._header)), 0)
        is_torn_header = bool(self._header) and b"\n" not in start and self._header.startswith(start)
        is_ours = start.startswith(self._header) if self._header else True
        if is_torn_header or (self._force and not is_ours):
            os.ftruncate(descriptor, 0)
            self.notes.append(f"{path} was begun anew" if not is_torn_header else f"{path} held half a header")
            return 0
        if not is_ours:
            raise UsageError(
                f"{path} holds another kind of log", hint="choose another -o FILE, or --force to begin it anew"
            )
        whole = _end_of_last_line(descriptor, size)
        if whole < size:
            os.ftruncate(descriptor, whole)
            self.notes.append(f"{path} ended in a torn line: its last {size - whole} bytes were taken away")
        return whole

    def _part_path(self, part: int) -> Path:
        return self._base.with_name(f"{self._base.stem}.{part}{self._base.suffix}") if part else self._base

    def _skip_full_parts(self) -> None:
        while self._part_path(self._part + 1).exists():
            self._next_part()

    def _next_part(self) -> None:
        path = self._part_path(self._part + 1)
        opened = self._open(path)
        if self._base_descriptor is None:
            self._base_descriptor = self._descriptor
        else:
            os.close(self._descriptor)
        self._descriptor, self._size = opened
        self._needs_header = not self._size
        self._part += 1
        self.path = path


def _end_of_last_line(descriptor: int, size: int) -> int:
    """Offset just after the last line end; 0 where there is none."""
    end = size
    while end > 0:
        start = max(0, end - _BLOCK)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
