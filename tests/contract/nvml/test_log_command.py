"""`vramplan log -- COMMAND`: the command must notice nothing, and its end must look like its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

GB = 10**9


def wrap(driver, scenario, *command, options=(), **more):
    return driver.run(scenario, "log", "-o", "log.csv", "-i", "0.05", *options, "--", *command, **more)


def rows(tmp_path, name="log.csv"):
    from csv import DictReader

    with (tmp_path / name).open() as file:
        return list(DictReader(file))


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_the_commands_exit_code_is_ours(driver, make, code):
    assert wrap(driver, make("1"), "sh", "-c", f"exit {code}").code == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_a_command_ended_by_a_signal_is_128_and_its_number(driver, make, number):
    assert wrap(driver, make("1"), "sh", "-c", f"kill -{number.value} $$").code == 128 + number


def test_a_command_that_is_not_found_is_127_and_one_that_cannot_run_126(driver, make, tmp_path):
    (tmp_path / "plain.txt").write_text("no program")
    missing, plain = wrap(driver, make("1"), "no-such-program"), wrap(driver, make("1"), "./plain.txt")
    assert (missing.code, plain.code) == (127, 126)
    assert "no-such-program: command not found" in missing.err


def test_output_input_and_arguments_pass_through(driver, make):
    script = "import sys; print('out', sys.argv[1:], sys.stdin.read()); print('err', file=sys.stderr)"
    result = wrap(driver, make("1"), sys.executable, "-c", script, "-i", "--gpu", "x y", input="hello")
    assert result.out == "out ['-i', '--gpu', 'x y'] hello\n"
    assert "err\n" in result.err


def test_one_sample_before_and_one_after_even_for_the_shortest_command(driver, make, tmp_path):
    assert wrap(driver, make("1000,2000,3000"), "true", options=["-i", "60"]).code == 0
    assert [(row["tick"], row["used_bytes"]) for row in rows(tmp_path)] == [("0", "1000"), ("1", "2000")]


def test_the_process_tree_is_followed_and_others_are_not(driver, make, tmp_path, until):
    holders = tmp_path / "holders.txt"
    holders.write_text("1:5\n")  # init: on this machine, and not of this run
    (tmp_path / "inner.py").write_text(
        f"import os, time\nopen({str(holders)!r}, 'a').write(f'{{os.getpid()}}:200\\n')\n"
        "end = time.time() + 20\n"
        "while ',1200,' not in open('log.csv').read() and time.time() < end: time.sleep(0.02)\n"
    )
    script = (
        "import os, subprocess, sys\n"
        f"open({str(holders)!r}, 'a').write(f'{{os.getpid()}}:1000\\n')\n"
        "subprocess.run([sys.executable, 'inner.py'])\n"
    )
    scenario = make("9000", processes_file=holders)
    result = wrap(driver, scenario, sys.executable, "-c", script, options=["--process-interval", "0.05"])
    assert result.code == 0, result.err
    assert max(int(row["watched_bytes"] or 0) for row in rows(tmp_path)) == 1200
    assert "the watched processes held 0.00 GB at most" in result.err


def test_pids_of_another_namespace_leave_the_cell_empty_and_say_the_rise(driver, make, tmp_path):
    scenario = make(f"{GB},{3 * GB}", processes="999999999:5")
    result = wrap(driver, scenario, "true")
    assert {row["watched_bytes"] for row in rows(tmp_path)} == {""}
    assert "the GPU rose by 2.00 GB above its first sample" in result.err


def test_the_end_says_peak_when_where_margin_samples_and_gaps(driver, make):
    result = wrap(driver, make(f"{GB},{30 * GB},{GB}", "5"), "sleep", "0.3")
    assert "GPU 0 (NVIDIA H100 80GB HBM3): peak 30.00 GB used at 2" in result.err
    assert "55.02 GB below its 85.02 GB" in result.err
    assert "GPU 1 (NVIDIA H100 80GB HBM3): peak 0.00 GB" in result.err
    assert "samples, one every 0.05 s" in result.err
    assert "gaps" in result.err
    assert "log.csv" in result.err


def test_fail_above_is_3_and_a_failed_command_keeps_its_own_code(driver, make):
    limit = ["--fail-above", "2GB"]
    assert wrap(driver, make(f"{3 * GB}"), "true", options=limit).code == 3
    assert wrap(driver, make(f"{3 * GB}"), "false", options=limit).code == 1
    assert wrap(driver, make(f"{2 * GB}"), "true", options=limit).code == 0


def test_kill_above_ends_the_command_cleanly_and_is_3(driver, make, tmp_path):
    script = "trap 'touch clean; exit 0' TERM; while :; do sleep 0.05; done"
    used = ",".join(["1"] * 40 + [str(3 * GB)])
    result = wrap(driver, make(used), "sh", "-c", script, options=["--kill-above", "2GB"])
    assert result.code == 3
    assert "above --kill-above 2,000,000,000: the command was ended" in result.err
    assert (tmp_path / "clean").exists()


def test_kill_above_needs_a_command(driver, make):
    assert driver.run(make("1"), "log", "--kill-above", "2GB").code == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_passed_on_and_the_commands_answer_is_ours(driver, make, tmp_path, until, number):
    script = (
        "import signal, sys, time\n"
        f"signal.signal({int(number)}, lambda n, _: sys.exit(40 + n))\n"
        "open('ready', 'w').close()\n"
        "time.sleep(60)\n"
    )
    command = ["log", "-o", "log.csv", "-i", "0.05", "--", sys.executable, "-c", script]
    process = driver.start(make("1"), *command)
    until((tmp_path / "ready").exists)
    process.send_signal(number)
    assert process.wait(30) == 40 + number
    assert rows(tmp_path)[-1]["status"] == "ok"


def test_a_signal_reaches_the_grandchildren_too(driver, make, tmp_path, until):
    script = "sleep 60 & echo $! > pid; wait"
    process = driver.start(make("1"), "log", "-o", "log.csv", "--", "sh", "-c", script)
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    grandchild = int((tmp_path / "pid").read_text())
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    until(lambda: not is_running(grandchild))


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("scenario", "status"),
    [(None, "library_not_found"), ("init 9\n", "driver_not_loaded"), ("init 18\n", "version_mismatch")],
)
def test_without_a_driver_the_command_runs_and_the_log_says_why_it_is_empty(driver, tmp_path, scenario, status):
    result = wrap(driver, scenario, "sh", "-c", "echo ran; exit 4")
    assert (result.code, result.out) == (4, "ran\n")
    assert "the command runs, and its log stays empty" in result.err
    (row,) = rows(tmp_path)
    assert row["status"] == status
    assert row["used_bytes"] == ""


def test_a_driver_without_gpus_is_no_reason_not_to_run(driver, tmp_path):
    result = wrap(driver, "count 0\n", "true")
    assert result.code == 0
    assert rows(tmp_path)[0]["status"] == "no_gpu"


def test_on_a_terminal_ctrl_z_stops_both_and_both_go_on(driver, make, tmp_path, until):
    """As a shell sees it: the job stops, and fg brings it back."""
    import pty

    (tmp_path / "waits.py").write_text(
        "import os, sys, time\nopen('ready', 'w').close()\n"
        "while not os.path.exists('go'): time.sleep(0.02)\n"
        "sys.exit(4)\n"
    )
    shell = (
        "set -m\n"
        f"'{sys.executable}' '{driver_app()}' log -o log.csv -i 0.05 -q -- "
        f"'{sys.executable}' waits.py\n"
        "echo stopped $? > stopped\n"
        "fg\n"
        "echo $? > ended\n"
    )
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", "bash", "-c", shell],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=driver.environment(make("1")),
        cwd=tmp_path,
    )
    os.close(theirs)
    try:
        until((tmp_path / "ready").exists)
        os.write(ours, b"\x1a")
        until((tmp_path / "stopped").exists)
        (tmp_path / "go").touch()
        until(lambda: (tmp_path / "ended").exists() and (tmp_path / "ended").read_text())
        assert (tmp_path / "ended").read_text() == "4\n"
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_without_a_name_the_log_has_one_of_its_own(driver, make, tmp_path):
    result = driver.run(make("1"), "log", "--", "sh", "-c", "exit 0")
    assert result.code == 0
    (path,) = tmp_path.glob("memory_log-sh-*.csv")
    assert path.name in result.err


def test_a_log_that_cannot_be_written_is_said_before_the_command_starts(driver, make, tmp_path):
    result = driver.run(make("1"), "log", "-o", "no/such/folder/log.csv", "--", "touch", "started")
    assert result.code == 2
    assert not (tmp_path / "started").exists()


def test_on_a_terminal_ctrl_c_reaches_the_command_once(driver, make, tmp_path, until):
    """The command is in the terminal's foreground, as a shell would put it; we only take note."""
    import pty

    script = (
        "import os, signal, sys, time\n"
        "came = []\n"
        "signal.signal(signal.SIGINT, lambda *_: came.append(1))\n"
        "open('ready', 'w').write(str(os.tcgetpgrp(0) == os.getpgrp()))\n"
        "end = time.time() + 20\n"
        "while not came and time.time() < end: time.sleep(0.01)\n"
        "time.sleep(0.3)\n"
        "open('came', 'w').write(str(len(came)))\n"
        "sys.exit(9)\n"
    )
    ours, theirs = pty.openpty()
    program = [
        sys.executable,
        str(driver_app()),
        "log",
        "-o",
        "log.csv",
        "-i",
        "0.05",
        "--",
        sys.executable,
        "-c",
        script,
    ]
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *program],
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        env=driver.environment(make("1")),
        cwd=tmp_path,
    )
    os.close(theirs)
    try:
        until(lambda: (tmp_path / "ready").exists() and (tmp_path / "ready").read_text())
        assert (tmp_path / "ready").read_text() == "True"
        os.write(ours, b"\x03")
        assert process.wait(30) == 9
        assert (tmp_path / "came").read_text() == "1"
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def driver_app():
    from pathlib import Path

    return Path(__file__).with_name("_app.py")
