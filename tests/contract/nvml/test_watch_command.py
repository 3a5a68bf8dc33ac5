"""The live view: once, and on a real terminal of 80 columns."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

GB = 10**9
APP = Path(__file__).with_name("_app.py")


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_once_prints_each_gpu_and_leaves(driver, make):
    result = driver.run(make(f"{30 * GB}", f"{GB}", processes=f"{os.getpid()}:{5 * GB}"), "watch", "--once")
    assert result.code == 0, result.err
    assert "GPU 0  NVIDIA H100 80GB HBM3" in result.out
    assert "30.00 used, 0.50 reserved, 55.02 free of 85.52" in result.out
    assert "highest 30.00" in result.out
    assert "97 % busy, 42 °C, 434 W" in result.out
    assert re.search(rf"{os.getpid()}  .*python.* 5\.00\n", result.out)
    assert all(len(line) <= 80 for line in result.out.splitlines())


def test_without_unicode_it_is_ascii(driver, make):
    for options, environment in ((["--ascii"], {}), ([], {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})):
        result = driver.run(make(f"{30 * GB}"), "watch", "--once", *options, env=environment)
        assert result.code == 0, result.err
        assert result.out.isascii()
        assert "#####" in result.out


@pytest.mark.parametrize("width", ["20", "40", "80", "200"])
def test_no_line_is_wider_than_the_terminal(driver, make, width, tmp_path):
    peak = {"phase": "train", "device_used_bytes": 33 * GB, "low_bytes": 31 * GB, "high_bytes": 35 * GB}
    (tmp_path / "r.json").write_text(json.dumps({"schema": "vramplan.report/1", "peak": peak}))
    result = driver.run(
        make(f"{30 * GB}", processes="1:5 2:- 3:7"), "watch", "--once", "--estimate", "r.json", env={"COLUMNS": width}
    )
    assert result.code == 0, result.err
    assert max(len(line) for line in result.out.splitlines()) <= int(width)
    if width == "80":
        assert "predicted 33.00" in result.out
        assert "predicted band 31.00 to 35.00" in result.out


def test_a_lost_gpu_and_gb10_say_why(driver, make):
    lost = "".join(f"fault {name} 0 1 0 15\n" for name in ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMemoryInfo"))
    assert "no memory reading: lost" in driver.run(make("1", "2") + lost, "watch", "--once").out
    assert "no memory reading: not supported" in driver.run(make("1", total=None), "watch", "--once").out


def test_without_a_driver_it_is_exit_5(driver):
    result = driver.run(None, "watch", "--once")
    assert (result.code, result.out) == (5, "")
    assert "install the NVIDIA driver" in result.err


class Terminal:
    """A terminal of 80 columns and 24 lines with the watch in it."""

    def __init__(self, environment, folder, *arguments):
        import fcntl
        import pty
        import struct
        import termios

        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        environment = {**environment, "TERM": "xterm"}
        environment.pop("COLUMNS", None)
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", sys.executable, str(APP), "watch", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            cwd=folder,
        )
        os.close(theirs)
        os.set_blocking(self.ours, False)
        self.seen = ""

    def read(self) -> str:
        try:
            self.seen += os.read(self.ours, 65536).decode(errors="replace")
        except (BlockingIOError, OSError):
            time.sleep(0.01)
        return plain(self.seen)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.ours)


@pytest.fixture
def terminal(driver, make, tmp_path):
    made = []

    def start(scenario, *arguments):
        made.append(Terminal(driver.environment(scenario), tmp_path, *arguments))
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_on_a_terminal_it_goes_on_until_q(terminal, make, until):
    screen = terminal(make(f"{GB},{7 * GB},{3 * GB}"), "-i", "0.1")
    until(lambda: "3.00 used" in screen.read())
    assert "highest 7.00" in screen.read()
    os.write(screen.ours, b"q")
    until(lambda: screen.read() and screen.process.poll() is not None)
    assert screen.process.returncode == 0
    assert "\x1b[?1049l" in screen.seen  # the screen that was there before is back
    assert "\x1b[?25h" in screen.seen  # and so is the cursor


def test_ctrl_c_ends_it_too(terminal, make, until):
    screen = terminal(make(f"{GB}"), "-i", "0.1")
    until(lambda: "1.00 used" in screen.read())
    os.write(screen.ours, b"\x03")
    until(lambda: screen.read() and screen.process.poll() is not None)
    assert screen.process.returncode == 128 + signal.SIGINT


def test_a_wedged_driver_is_said_and_q_still_quits(terminal, make, until):
    screen = terminal(make(f"{GB}") + "slow nvmlDeviceGetMemoryInfo_v2 0 2 2 120000\n", "-i", "0.1")
    until(lambda: "the driver has not answered for" in screen.read())
    os.write(screen.ours, b"q")
    until(lambda: screen.read() and screen.process.poll() is not None)
    assert screen.process.returncode == 0
