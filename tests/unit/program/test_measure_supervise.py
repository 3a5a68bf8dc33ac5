"""The measuring process: whatever ends it, what it told is there, and nothing of it goes on."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vramplan.program.supervise import ChildRun, Finished
from vramplan.program.task import Task

if TYPE_CHECKING:
    import pytest

TELL = """
import json, os, sys, time
out = open(sys.argv[2], "a", buffering=1)
def tell(**event): out.write(json.dumps(event) + "\\n")
"""
HANG = (
    TELL
    + "tell(event='phase', phase='load')\nos.system('sleep 60 & echo $! >> ' + sys.argv[1] + '.pid')\ntime.sleep(60)"
)


def _task(folder: Path) -> Task:
    run: Any = None  # never read by these commands
    return Task(
        run=run,
        configs={},
        stack=run,
        checkpoints={},
        writes_checkpoints=False,
        steps=2,
        device="cpu",
        allocator_conf="",
        capacity_bytes=None,
        settle_seconds=0.0,
        snapshot=None,
        folder=str(folder),
    )


def _start(
    folder: Path, code: str, *, timeout: float = 30.0, environment: dict[str, str | None] | None = None
) -> ChildRun:
    return ChildRun(
        _task(folder),
        folder=folder,
        environment=environment or {},
        timeout_seconds=timeout,
        command=(sys.executable, "-c", code),
    )


def _wait_for(path: Path) -> None:
    until = time.monotonic() + 20
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < until, f"{path} was not written"
        time.sleep(0.01)


def _is_gone(pid: int) -> bool:
    """Whether a process that was killed ends: the kernel delivers the signal in its own time."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_what_it_told_is_read_in_order(tmp_path: Path) -> None:
    finished = _start(tmp_path, TELL + "tell(event='phase', phase='a'); tell(event='phase', phase='b')").wait()
    assert [event["phase"] for event in finished.all("phase")] == ["a", "b"]
    last = finished.last("phase")
    assert last is not None
    assert last["phase"] == "b"
    assert finished.last("end") is None
    assert (finished.exit_code, finished.timed_out, finished.interrupted) == (0, False, False)


def test_a_hang_ends_at_its_time_with_all_it_started(tmp_path: Path) -> None:
    begin = time.monotonic()
    finished = _start(tmp_path, HANG, timeout=5.0).wait()
    assert time.monotonic() - begin < 20
    assert finished.timed_out
    assert finished.exit_code == -signal.SIGKILL
    assert [event["phase"] for event in finished.all("phase")] == ["load"]
    helper = int((tmp_path / "task.pickle.pid").read_text())
    assert _is_gone(helper)


def test_a_killed_process_leaves_whole_lines_only(tmp_path: Path) -> None:
    child = _start(tmp_path, HANG)
    _wait_for(tmp_path / "task.pickle.pid")
    with child.results.open("a") as file:
        file.write('{"event": "phase", "pha')
    os.kill(child.pid, signal.SIGKILL)
    finished = child.wait()
    assert not finished.timed_out
    assert finished.exit_code == -signal.SIGKILL
    assert [event["phase"] for event in finished.all("phase")] == ["load"]


def test_an_interrupt_keeps_what_was_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = _start(tmp_path, HANG)
    _wait_for(tmp_path / "task.pickle.pid")
    wait = child._process.wait
    answers = iter([KeyboardInterrupt])

    def interrupted(*arguments: Any) -> int:
        for error in answers:
            raise error
        return wait(*arguments)

    monkeypatch.setattr(child._process, "wait", interrupted)
    finished = child.wait()
    assert finished.interrupted
    assert [event["phase"] for event in finished.all("phase")] == ["load"]
    assert _is_gone(child.pid)


def test_a_crash_says_its_last_words(tmp_path: Path) -> None:
    finished = _start(tmp_path, "import sys; sys.exit('the end\\n\\n')").wait()
    assert finished.exit_code == 1
    assert finished.complaint == "the end"
    assert finished.events == ()


def test_variables_are_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:64")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":8:8")
    code = (
        TELL
        + "tell(event='end', **{k: os.environ.get(k) for k in ('PYTORCH_ALLOC_CONF', 'CUBLAS_WORKSPACE_CONFIG', 'X')})"
    )
    finished: Finished = _start(tmp_path, code, environment={"PYTORCH_ALLOC_CONF": None, "X": "1"}).wait()
    end = finished.last("end")
    assert end == {"event": "end", "PYTORCH_ALLOC_CONF": None, "CUBLAS_WORKSPACE_CONFIG": ":8:8", "X": "1"}
    assert os.environ["PYTORCH_ALLOC_CONF"] == "max_split_size_mb:64"
    assert "X" not in os.environ
