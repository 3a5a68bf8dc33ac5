"""Starts a logger for every line on standard input by forking, so that 200 starts cost what one costs.

A line is the log's path; the rows' report goes to the same path with `.reported` behind it. The pid is printed.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pynvml  # noqa: F401 - imported before the forks; started in each

from vramplan.monitor.options import LogOptions, parse_format
from vramplan.monitor.run_log import run_log


def log(path: Path) -> None:
    os.dup2(os.open(f"{path}.reported", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 1)
    options = LogOptions(
        output=path, format=parse_format(None, None), interval_seconds=0.01, process_seconds=None, tee=True, quiet=True
    )
    run_log(options, lambda line: None)


signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        try:
            log(Path(line.strip()))
        finally:
            os._exit(1)
    print(pid, flush=True)
