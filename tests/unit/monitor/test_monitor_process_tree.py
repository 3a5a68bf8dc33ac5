from __future__ import annotations

import os
import subprocess
import sys

import pytest

from vramplan.monitor.process_tree import ProcessTree, is_running


@pytest.fixture
def child():
    """A process of ours with a child of its own; gives both pids and a way to end the first."""
    script = (
        "import subprocess, sys\n"
        "inner = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)\n"
        "print(inner.pid, flush=True)\n"
        "input()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield process, int(process.stdout.readline())
    process.kill()
    process.communicate()


def test_a_grandchild_belongs_and_a_stranger_does_not(child):
    process, inner = child
    tree = ProcessTree(process.pid)
    assert tree.members([process.pid, inner, 1, os.getpid()]) == {process.pid, inner}
    assert ProcessTree(os.getpid()).members([inner]) == {inner}


def test_a_pid_that_is_not_visible_is_told_apart(child):
    process, _ = child
    tree = ProcessTree(process.pid)
    assert not is_running(999_999_999)
    assert is_running(process.pid)
    assert tree.members([999_999_999]) == frozenset()
