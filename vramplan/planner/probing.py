"""Libraries looked at in processes of their own, both at once: a crash or a hang there is an answer here."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

TIMEOUT_SECONDS = 120.0
"""A first import of torch from a cold network disk takes about a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What a library said of itself.

    Args:
        facts: its answer, empty where it gave none.
        error: why it gave none, or None.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


def probe(names: Sequence[str], *, timeout_seconds: float = TIMEOUT_SECONDS) -> dict[str, Probed]:
    """Ask `vramplan.program.probe` about each of these libraries."""
    until = time.monotonic() + timeout_seconds
    started = [(name, *_start(name)) for name in names]
    return {name: _finish(process, said, until) for name, process, said in started}


def _start(name: str) -> tuple[subprocess.Popen[str], IO[str]]:
    said = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed in _finish
    process = subprocess.Popen(
        [sys.executable, "-m", "vramplan.program.probe", name],
        stdout=subprocess.PIPE,
        stderr=said,  # a file: a pipe that nobody reads would stop a talkative import
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    return process, said


def _finish(process: subprocess.Popen[str], said: IO[str], until: float) -> Probed:
    try:
        out, _ = process.communicate(timeout=max(0.1, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        said.close()
        return Probed(error="its import did not end in time")
    except BaseException:  # Ctrl-C: no child outlives the command
        process.kill()
        process.communicate()
        said.close()
        raise
    with said:
        said.seek(0)
        errors = [line.strip() for line in said.read().splitlines() if line.strip()]
    if process.returncode == 0 and out.strip():
        return Probed(facts=json.loads(out.strip().splitlines()[-1]))
    if process.returncode < 0:
        return Probed(error=f"its import died of {_signal_name(-process.returncode)}")
    return Probed(error=errors[-1] if errors else f"its import ended with code {process.returncode}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
