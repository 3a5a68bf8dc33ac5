"""Starts a measuring process, ends it when its time is up, and reads what it told. Loads no torch."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vramplan.program.task import Task

COMMAND = (sys.executable, "-m", "vramplan.program.child")
_QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What is left of a process.

    Args:
        events: what it told, in order.
        exit_code: as a shell would say it, negative for a signal.
        timed_out: whether it was ended because its time was up.
        interrupted: whether it was ended by Ctrl-C.
        complaint: the last line that it wrote on stderr, or "".
    """

    events: tuple[Mapping[str, Any], ...]
    exit_code: int
    timed_out: bool
    interrupted: bool
    complaint: str

    def all(self, event: str) -> tuple[Mapping[str, Any], ...]:
        """The events of a kind."""
        return tuple(one for one in self.events if one.get("event") == event)

    def last(self, event: str) -> Mapping[str, Any] | None:
        """The last event of a kind, or None."""
        found = self.all(event)
        return found[-1] if found else None


class ChildRun:
    """A measuring process, from its start.

    Args:
        task: what it is asked.
        folder: a folder of its own.
        environment: variables for it alone, over those of this process; None takes one away.
        timeout_seconds: it is ended after that long.
        command: what is started with the names of the task's and the results' files.
    """

    def __init__(
        self,
        task: Task,
        *,
        folder: Path,
        environment: Mapping[str, str | None],
        timeout_seconds: float,
        command: Sequence[str] = COMMAND,
    ) -> None:
        asked, self.results, self._said = folder / "task.pickle", folder / "results.jsonl", folder / "stderr.txt"
        asked.write_bytes(pickle.dumps(task))
        self._timed_out = False
        variables = {**os.environ, **_QUIET}
        for name, value in environment.items():
            variables.pop(name, None)
            if value is not None:
                variables[name] = value
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [*command, str(asked), str(self.results)],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env=variables,
                start_new_session=True,  # Ctrl-C reaches us alone, and we end it once its results are kept
            )
        self._timer = threading.Timer(timeout_seconds, self._end_late)
        self._timer.daemon = True
        self._timer.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def wait(self) -> Finished:
        """Waits for its end, by itself, by its time or by Ctrl-C, and reads what it told."""
        interrupted = False
        try:
            self._process.wait()
        except KeyboardInterrupt:
            interrupted = True
        return self.finish(interrupted=interrupted)

    def finish(self, *, interrupted: bool = False) -> Finished:
        """Ends it if it still runs, and reads what it told."""
        running = self._process.poll() is None
        self._timer.cancel()
        self._kill()
        code = self._process.wait()
        return Finished(
            events=tuple(_events(self.results)),
            exit_code=code,
            timed_out=self._timed_out,
            interrupted=interrupted and running,
            complaint=_last_line(self._said),
        )

    def _end_late(self) -> None:
        self._timed_out = True
        self._kill()

    def _kill(self) -> None:
        if self._process.poll() is None:
            # Its whole group: loaders of data and compilers of kernels would hold the card as well.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


def _events(path: Path) -> list[dict[str, Any]]:
    """Whole lines only: the last one may be cut short."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _last_line(path: Path) -> str:
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
