"""Which processes belong to the run that is watched, from /proc.

Only the processes that NVML names are looked at, each by walking up its parents, so the cost does not grow with the
machine. A process is remembered once it was seen in the tree: a daemon whose parent has gone still belongs to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_PROC = Path("/proc")


def _parent_and_start(pid: int) -> tuple[int, int] | None:
    """(parent's pid, start time in clock ticks) from /proc/PID/stat (proc(5), fields 4 and 22); None if it is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        fields = text[text.rindex(")") + 2 :].split()  # the name in field 2 may hold spaces and brackets
        return int(fields[1]), int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def is_running(pid: int) -> bool:
    """True where a process of this number can be seen from here."""
    return _parent_and_start(pid) is not None


class ProcessTree:
    """A process and everything that it started."""

    def __init__(self, root_pid: int) -> None:
        self.root_pid = root_pid
        self._members: set[tuple[int, int]] = set()
        start = _parent_and_start(root_pid)
        if start is not None:
            self._members.add((root_pid, start[1]))

    def members(self, pids: Iterable[int]) -> frozenset[int]:
        """Those of `pids` that belong to the tree now."""
        return frozenset(pid for pid in pids if self._belongs(pid))

    def _belongs(self, pid: int) -> bool:
        path: list[tuple[int, int]] = []
        at = pid
        while at > 1:
            found = _parent_and_start(at)
            if found is None:
                return False
            key = (at, found[1])
            if at == self.root_pid or key in self._members:
                self._members.update([*path, key])
                return True
            path.append(key)
            at = found[0]
        return False
