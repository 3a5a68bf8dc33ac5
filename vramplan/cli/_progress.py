"""A progress bar on stderr for work that turns out to take longer than a moment."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE_SECONDS = 1.0
"""Work that ends sooner shows no bar."""


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[float], None]]:
    """Yields what takes the share of the work that is done; nothing is drawn where stderr is no terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task(what, total=1.0)
    begun = time.monotonic()

    def advance(share: float) -> None:
        if not bar.live.is_started and time.monotonic() - begun > PATIENCE_SECONDS:
            bar.start()
        bar.update(task, completed=share)

    try:
        yield advance
    finally:
        bar.stop()
