"""SIGKILL at any moment leaves a file in which every line is whole and no row is missing that was reported written.

But for one moment that no program can choose: Linux copies a write page by page and looks for a fatal signal in between
(mm/filemap.c, generic_perform_write), so a tick that lies across a page's end can be cut there, and only there. A
resumed log takes such a line away, and `vramplan report` reads past it.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from csv import reader
from pathlib import Path

RUNS = 200
AT_ONCE = 5
NUM_GPUS = 4
PAGE_BYTES = 4096


def start(driver, make, path: Path) -> subprocess.Popen[str]:
    scenario = make(*("1000",) * NUM_GPUS)
    # Rows come to standard output only after they are in the file: it is the report of what was written.
    return driver.start(scenario, "log", "-o", str(path), "-i", "0.01", "--tee", "-q", stderr=subprocess.DEVNULL)


def check(path: Path, reported: str) -> int:
    """The number of whole ticks in the file."""
    content = path.read_text() if path.exists() else ""
    whole_reports = reported[: reported.rfind("\n") + 1]
    assert content.startswith(whole_reports), "a row that was reported written is not in the file"
    if content and not content.endswith("\n"):
        assert len(content) % PAGE_BYTES == 0, "the file ends in a torn line"
        content = content[: content.rfind("\n") + 1]
        rest = len(list(reader(content.splitlines()))[1:]) % NUM_GPUS  # rows of the tick that was cut
        content = "".join(content.splitlines(keepends=True)[: -rest or None])
    rows = list(reader(content.splitlines()))
    assert all(len(row) == len(rows[0]) for row in rows), "a line is not whole"
    ticks = [int(row[2]) for row in rows[1:]]
    assert ticks == sorted(ticks)
    assert all(ticks.count(tick) == NUM_GPUS for tick in set(ticks)), "a tick is not whole"
    return len(set(ticks))


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_killed_at_random_moments_200_times_the_log_is_whole(driver, make, tmp_path, until):
    seconds = random.Random(6)
    forks = driver.start(make(*("1000",) * NUM_GPUS), program="_forks.py", stdin=subprocess.PIPE)
    ticks = 0
    for batch in range(RUNS // AT_ONCE):
        paths = [tmp_path / f"{batch}-{number}.csv" for number in range(AT_ONCE)]
        forks.stdin.write("".join(f"{path}\n" for path in paths))
        forks.stdin.flush()
        pids = [int(forks.stdout.readline()) for _ in paths]
        until(lambda paths=paths: all(path.exists() and path.stat().st_size for path in paths))
        for path, pid in zip(paths, pids, strict=True):
            time.sleep(seconds.uniform(0, 0.02))
            assert is_alive(pid)
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: not is_alive(pid))
            ticks += check(path, Path(f"{path}.reported").read_text())
    assert ticks > RUNS  # the kills came in mid-run, not at the first row


def test_killed_while_starting_it_leaves_nothing_or_whole_lines(driver, make, tmp_path):
    seconds = random.Random(5)
    for number in range(8):
        path = tmp_path / f"{number}.csv"
        process = start(driver, make, path)
        time.sleep(seconds.uniform(0, 0.3))
        process.kill()
        reported, _ = process.communicate(timeout=30)
        check(path, reported)


def test_a_killed_log_is_resumed_where_it_ended(driver, make, tmp_path):
    path = tmp_path / "log.csv"
    for _ in range(3):
        process = start(driver, make, path)
        assert process.stdout is not None
        for _ in range(2 * NUM_GPUS + 1):
            assert process.stdout.readline()
        process.kill()
        process.communicate(timeout=30)
        before = path.read_text()
        path.write_text(before + "2026-11-21T19:02")  # what a machine that lost its power may leave
    result = driver.run(make("1"), "log", "-o", str(path), "-i", "0.01", "--count", "1")
    assert result.code == 0
    assert "torn line: its last 16 bytes were taken away" in result.err
    rows = list(reader(path.read_text().splitlines()))
    assert all(len(row) == len(rows[0]) for row in rows)
    assert sum(row[0] == "time_utc" for row in rows) == 1
    assert path.read_text().startswith(before)


def test_the_command_outlives_its_logger(driver, make, tmp_path, until):
    process = driver.start(
        make("1"),
        "log",
        "-o",
        "log.csv",
        "--",
        "sh",
        "-c",
        "touch ready; while [ ! -e go ]; do sleep 0.05; done; touch done",
    )
    until((tmp_path / "ready").exists)
    process.kill()
    process.wait(30)
    (tmp_path / "go").touch()
    until((tmp_path / "done").exists)
