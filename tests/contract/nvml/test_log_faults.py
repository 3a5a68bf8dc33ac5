"""What goes wrong while logging: the driver, the disk, the reader, the user."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from csv import DictReader
from pathlib import Path

import pytest

LOST = "".join(
    f"fault {name} 0 3 0 15\n" for name in ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMemoryInfo", "handle")
)


def rows(path):
    with path.open() as file:
        return list(DictReader(file))


def lines(path):
    return path.read_text().count("\n") if path.exists() else 0


def test_a_gpu_lost_in_mid_run_keeps_its_row_and_the_other_goes_on(driver, make):
    result = driver.run(make("1", "2") + LOST, "log", "-i", "0.02", "--count", "6")
    assert result.code == 0
    by_gpu = {index: [row for row in result.rows if row["gpu_index"] == index] for index in "01"}
    assert [row["status"] for row in by_gpu["0"]] == ["ok", "ok", "lost", "lost", "lost", "lost"]
    assert [row["used_bytes"] for row in by_gpu["0"]] == ["1", "1", "", "", "", ""]
    assert [row["used_bytes"] for row in by_gpu["1"]] == ["2"] * 6
    assert "without a reading: 4 × lost" in result.err


def test_one_bad_answer_costs_one_row(driver, make):
    fault = "fault nvmlDeviceGetMemoryInfo_v2 0 2 3 999\n"  # the first try and the one with a fresh handle
    result = driver.run(make("1") + fault, "log", "-i", "0.02", "--count", "4")
    assert [row["status"] for row in result.rows] == ["ok", "unknown_error", "ok", "ok"]


def test_a_metric_without_permission_is_an_empty_cell(driver, make):
    fault = "fault nvmlDeviceGetPowerUsage 0 1 0 4\n"
    (row,) = driver.run(make("1") + fault, "log", "--count", "1").rows
    assert (row["power_watts"], row["temperature_celsius"], row["status"]) == ("", "42", "ok")


@pytest.mark.parametrize("code", [9, 18, 999])
def test_a_driver_that_does_not_start_is_exit_5_and_no_row(driver, code):
    result = driver.run(f"init {code}\n", "log", "-o", "log.csv")
    assert result.code == 5
    assert result.err.startswith("error: ")
    assert "Traceback" not in result.err


def test_a_machine_without_gpus_is_exit_5(driver):
    assert driver.run("count 0\n", "log").code == 5


def test_slow_answers_are_gaps_in_the_tick_number_and_no_burst_follows(driver, make):
    slow = "slow nvmlDeviceGetMemoryInfo_v2 0 3 3 500\n"
    result = driver.run(make("1") + slow, "log", "-i", "0.05", "--count", "6")
    ticks = [int(row["tick"]) for row in result.rows]
    times = [float(row["elapsed_seconds"]) for row in result.rows]
    assert len(ticks) == 6
    assert ticks[3] - ticks[2] >= 9
    assert ticks == sorted(set(ticks))
    assert all(t >= n * 0.05 - 0.001 for n, t in zip(ticks, times, strict=True))  # never ahead of the grid
    assert "gap" in result.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_with_whole_lines_and_a_summary(driver, make, tmp_path, until, number):
    process = driver.start(make("1"), "log", "-o", "log.csv", "-i", "0.02")
    until(lambda: lines(tmp_path / "log.csv") > 3)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert (tmp_path / "log.csv").read_text().endswith("ok\n")
    assert "peak 0.00 GB" in err


def test_a_hangup_that_was_to_be_ignored_is_ignored(driver, make, tmp_path, until):
    """As under nohup."""
    process = driver.start(
        make("1"),
        "log",
        "-o",
        "log.csv",
        "-i",
        "0.02",
        shell="trap '' HUP",
    )
    until(lambda: lines(tmp_path / "log.csv") > 3)
    process.send_signal(signal.SIGHUP)
    before = lines(tmp_path / "log.csv")
    until(lambda: lines(tmp_path / "log.csv") > before + 3)
    assert process.poll() is None


def test_a_wedged_driver_never_blocks_the_end(driver, make, tmp_path, until):
    wedged = "slow nvmlDeviceGetMemoryInfo_v2 0 3 3 120000\n"
    process = driver.start(make("1") + wedged, "log", "-o", "log.csv", "-i", "0.02")
    until(lambda: lines(tmp_path / "log.csv") == 3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert len(rows(tmp_path / "log.csv")) == 2


def test_a_driver_that_is_wedged_from_the_start_never_blocks_the_end(driver, make):
    process = driver.start(make("1") + "slow nvmlInitWithFlags * 1 0 120000\n", "log")
    assert process.stderr is not None
    first = process.stderr.readline()
    assert "has not answered for 5 s" in first
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130


def test_a_wedged_driver_neither_delays_nor_changes_the_command(driver, make, tmp_path):
    wedged = "slow nvmlDeviceGetMemoryInfo_v2 0 2 0 120000\n"
    result = driver.run(make("1") + wedged, "log", "-o", "log.csv", "-i", "0.02", "--", "sh", "-c", "sleep 0.2; exit 6")
    assert result.code == 6
    assert rows(tmp_path / "log.csv")[0]["used_bytes"] == "1"


def test_a_long_stall_is_a_row_that_says_so(driver, make, tmp_path, until):
    stalled = "slow nvmlDeviceGetMemoryInfo_v2 0 3 3 8000\n"
    process = driver.start(make("1") + stalled, "log", "-o", "log.csv", "-i", "0.1")
    until(lambda: lines(tmp_path / "log.csv") > 6)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    found = rows(tmp_path / "log.csv")
    assert [row["status"] for row in found[:3]] == ["ok", "ok", "stalled"]
    assert found[3]["status"] == "ok"
    assert int(found[3]["tick"]) > int(found[2]["tick"])
    for name in ("elapsed_seconds", "tick"):
        values = [float(row[name]) for row in found]
        assert values == sorted(values)
    assert [row["time_utc"] for row in found] == sorted(row["time_utc"] for row in found)
    assert "answers again" in err


def test_a_reader_that_goes_away_ends_it_quietly(driver, make):
    process = driver.start(make("1"), "log", "-i", "0.02", "-q")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(30) == 0
    assert process.stderr.read() == ""
    process.stdout = None


def test_closed_standard_output_and_error_do_not_stop_a_file(driver, make, tmp_path):
    program = [sys.executable, str(Path(__file__).with_name("_app.py")), "log", "-o", "log.csv", "-i", "0.02"]
    command = " ".join(f"'{word}'" for word in [*program, "--count", "3"]) + " >&- 2>&- <&-"
    done = subprocess.run(
        ["sh", "-c", command], env=driver.environment(make("1")), cwd=tmp_path, timeout=30, check=False
    )
    assert done.returncode == 0
    assert len(rows(tmp_path / "log.csv")) == 3


def test_rows_have_to_go_somewhere(driver, make, tmp_path):
    program = f"'{sys.executable}' '{Path(__file__).with_name('_app.py')}' log --count 1 >&-"
    done = subprocess.run(
        ["sh", "-c", program],
        env=driver.environment(make("1")),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert "standard output is closed" in done.stderr


def test_a_second_writer_is_refused_and_the_first_goes_on(driver, make, tmp_path, until):
    first = driver.start(make("1"), "log", "-o", "log.csv", "-i", "0.02")
    until(lambda: lines(tmp_path / "log.csv") > 2)
    second = driver.run(make("1"), "log", "-o", "log.csv", "--count", "1")
    assert second.code == 2
    assert "another process is writing log.csv" in second.err
    before = lines(tmp_path / "log.csv")
    until(lambda: lines(tmp_path / "log.csv") > before)
    first.send_signal(signal.SIGINT)
    first.wait(30)


def test_a_full_disk_is_survived_reported_and_leaves_whole_lines(driver, make, tmp_path):
    result = driver.run(
        make("1"),
        "log",
        "-o",
        "log.csv",
        "-i",
        "0.01",
        "--count",
        "60",
        shell="ulimit -f 4",  # blocks of 512 bytes
    )
    text = (tmp_path / "log.csv").read_text()
    assert result.code == 1
    assert "rows cannot be written (" in result.err
    assert text.endswith("ok\n")
    written = rows(tmp_path / "log.csv")
    assert [int(row["tick"]) for row in written] == sorted(int(row["tick"]) for row in written)
    assert f"{60 - len(written)} rows could not be written and are lost" in result.err
    assert "peak 0.00 GB" in result.err


def test_rows_that_waited_for_space_are_all_written(driver, make, tmp_path, until):
    """The limit is lifted while the logger runs: nothing is missing afterwards."""
    process = driver.start(
        make("1"),
        "log",
        "-o",
        "log.csv",
        "-i",
        "0.02",
        shell="ulimit -S -f 4",
    )
    until(lambda: lines(tmp_path / "log.csv") > 2)
    assert process.stderr is not None
    assert "rows cannot be written" in process.stderr.readline()
    unlimited = resource.RLIM_INFINITY
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))
    assert "rows are written again" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    ticks = [int(row["tick"]) for row in rows(tmp_path / "log.csv")]
    assert len(ticks) == len(set(ticks))
    assert ticks == sorted(ticks)
    assert ticks[0] == 0


def test_a_device_that_is_always_full_does_not_stop_the_command(driver, make):
    if not os.path.exists("/dev/full"):  # noqa: PTH110
        pytest.skip("no /dev/full here")
    result = driver.run(make("1"), "log", "-o", "/dev/full", "-i", "0.02", "--", "sh", "-c", "sleep 0.1; exit 3")
    assert result.code == 3
    assert "No space left on device" in result.err


def test_rows_shown_are_never_ahead_of_the_file(driver, make, tmp_path):
    result = driver.run(make("1,2,3"), "log", "-o", "log.csv", "-i", "0.02", "--count", "3", "--tee")
    assert result.out == (tmp_path / "log.csv").read_text()


def test_a_resumed_file_has_one_header_and_all_rows(driver, make, tmp_path):
    for _ in range(2):
        assert driver.run(make("1"), "log", "-o", "log.csv", "-i", "0.02", "--count", "2").code == 0
    ticks = [int(row["tick"]) for row in rows(tmp_path / "log.csv")]
    assert len(ticks) == 4
    assert [ticks[0], ticks[2]] == [0, 0]
    other = driver.run(make("1"), "log", "-o", "log.csv", "--query-gpu=memory.used", "--count", "1")
    assert other.code == 2
    assert "another kind of log" in other.err
    assert len(rows(tmp_path / "log.csv")) == 4


def test_rotation_puts_a_header_in_each_part_and_loses_nothing(driver, make, tmp_path):
    options = ("log", "-o", "log.csv", "-i", "0.01", "--rotate-size", "1000B")
    assert driver.run(make("1"), *options, "--count", "10").code == 0
    parts = [tmp_path / "log.csv", *sorted(tmp_path.glob("log.*.csv"), key=lambda path: int(path.suffixes[0][1:]))]
    assert len(parts) > 2
    ticks = [int(row["tick"]) for path in parts for row in rows(path)]
    assert len(ticks) == 10
    assert ticks == sorted(ticks)
    assert all(path.stat().st_size <= 1000 for path in parts)
    assert driver.run(make("1"), *options, "--count", "1").code == 0
    assert sum(len(rows(path)) for path in tmp_path.glob("log*.csv")) == 11


def test_a_process_that_is_not_there_cannot_be_followed(driver, make):
    result = driver.run(make("1"), "log", "--pid", "999999999")
    assert result.code == 2
    assert "no process has the pid 999999999" in result.err


@pytest.mark.parametrize(
    "flags",
    [
        ["-i", "0"],
        ["-i", "x"],
        ["-i", "1", "-lms", "5"],
        ["--count", "0"],
        ["--duration", "soon"],
        ["--fail-above", "x"],
        ["--units", "MB"],
    ],
)
def test_wrong_flags_are_one_sentence_and_exit_2(driver, make, flags):
    result = driver.run(make("1"), "log", *flags)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: ")
    assert "Traceback" not in result.err


def test_nvidia_smis_own_flags_are_taken(driver, make, tmp_path):
    flags = ("--query-gpu=index,memory.used", "--format=csv,noheader", "-lms", "20", "-f", "log.csv", "--count", "2")
    assert driver.run(make("1"), "log", *flags).code == 0
    assert (tmp_path / "log.csv").read_text() == "0, 1 MiB\n0, 1 MiB\n"
    assert driver.run(make("1"), "log", "-l", "1", "--count", "1", "--id", "0").code == 0


def test_a_duration_ends_it(driver, make):
    result = driver.run(make("1"), "log", "-i", "0.05", "--duration", "0.3s")
    assert result.code == 0
    assert 2 <= len(result.rows) <= 7


def test_on_a_terminal_one_line_follows_a_file_and_is_gone_at_the_end(driver, make, tmp_path):
    import pty

    ours, theirs = pty.openpty()
    program = [sys.executable, str(Path(__file__).with_name("_app.py")), "log", "-o", "log.csv", "-i", "0.05"]
    done = subprocess.run(
        [*program, "--count", "3"],
        env=driver.environment(make("30000000000")),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        timeout=30,
        check=False,
    )
    os.close(theirs)
    seen = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.returncode == 0
    assert "GPU 0 [########------------] 30.00 of 85.52 GB, peak 30.00" in seen
    assert seen.index("\r\x1b[KGPU 0 (NVIDIA H100 80GB HBM3): peak 30.00 GB")  # the line was cleared first
