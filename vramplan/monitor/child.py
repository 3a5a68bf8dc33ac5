"""The command after `--`: started as a shell would start it, its end told as a shell would tell it.

It gets a process group of its own, so that everything that it starts can be signalled together, and the terminal, so
that Ctrl-C reaches it first. Its standard input, output and error are ours.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Sequence

NOT_EXECUTABLE = 126
NOT_FOUND = 127


class CommandNotStartedError(Exception):
    """The command could not be run; `exit_code` is a shell's: 127 not found, 126 found but not runnable."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code


class Child:
    """A started command.

    Args:
        argv: the command and its arguments, as a shell would pass them.

    Raises:
        CommandNotStartedError: it could not be started.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self._terminal = _own_terminal()
        defaults = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGXFSZ]
        try:
            self.pid = os.posix_spawnp(argv[0], list(argv), os.environ, setpgroup=0, setsigdef=defaults, setsigmask=[])
        except (FileNotFoundError, NotADirectoryError):
            raise CommandNotStartedError(f"{argv[0]}: command not found", NOT_FOUND) from None
        except OSError as error:
            raise CommandNotStartedError(f"{argv[0]}: {error.strerror}", NOT_EXECUTABLE) from None
        self.exit_code: int | None = None
        self._give_terminal(self.pid)

    def poll(self) -> int | None:
        """The exit code once it has ended: its own, or 128 + n when signal n ended it."""
        while self.exit_code is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                self.exit_code = 1  # someone else has waited for it: how it ended is not known
                break
            if pid == 0:
                return None
            if os.WIFSTOPPED(status):
                self._stop_with_it()
                continue
            self.exit_code = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        if self._terminal is not None:
            self._give_terminal(os.getpgrp())
            self._terminal = None
        return self.exit_code

    def signal(self, number: int) -> None:
        """Send a signal to the command and everything in its group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _stop_with_it(self) -> None:
        """Ctrl-Z: stop as the command stopped, and go on with it. Without a terminal only the command is stopped."""
        if self._terminal is None:
            return
        self._give_terminal(os.getpgrp())
        os.kill(os.getpid(), signal.SIGSTOP)
        self._give_terminal(self.pid)
        self.signal(signal.SIGCONT)

    def _give_terminal(self, group: int) -> None:
        if self._terminal is None:
            return
        previous = signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # a background group may not hand it on otherwise
        with contextlib.suppress(OSError):
            os.tcsetpgrp(self._terminal, group)
        signal.signal(signal.SIGTTOU, previous)
        if group == self.pid:
            self.signal(signal.SIGCONT)  # it may have been stopped for reading before the terminal was its own


def _own_terminal() -> int | None:
    """Standard input's descriptor where it is a terminal and this process is in its foreground."""
    try:
        descriptor = sys.__stdin__.fileno() if sys.__stdin__ is not None else 0
        return descriptor if os.isatty(descriptor) and os.tcgetpgrp(descriptor) == os.getpgrp() else None
    except (OSError, ValueError):
        return None
