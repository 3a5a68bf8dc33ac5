"""What only a process of its own shows: imports, pipes, colours, the worker pool, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "pandas", "numpy", "huggingface_hub", "pynvml", "yaml", "accelerate", "peft")
VRAMPLAN = [sys.executable, "-m", "vramplan.cli.app"]
LINE = '{"id": %d, "run": {"model": "HuggingFaceTB/SmolLM2-135M", "method": "inference"}}\n'


def _loaded(*argv: str) -> set[str]:
    code = (
        "import sys; from vramplan.cli.app import run; run(sys.argv[1:]);"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("argv", "more"),
    [
        (("estimate", "--gpu-mem", "85", "--json"), ("rich", "pydantic")),
        (("estimate", "--gpu-mem", "85"), ("pydantic",)),
        (("--help",), ("rich",)),
    ],
)
def test_no_heavy_module_is_loaded(argv: tuple[str, ...], more: tuple[str, ...]) -> None:
    assert _loaded(*argv) & {*HEAVY, *more} == set()


def test_a_pipe_that_closes_early_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text("".join(LINE % number for number in range(200)))
    done = subprocess.run(
        f"{' '.join(VRAMPLAN)} estimate --jsonl {path} | head -1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["id"] == 0


def test_many_lines_go_through_workers_in_order() -> None:
    # The first few are answered alone, the rest by two workers; line 101 is bad.
    lines = [LINE % number if number != 100 else "nope\n" for number in range(130)]
    done = subprocess.run([*VRAMPLAN, "estimate", "--jsonl", "-"], input="".join(lines), capture_output=True, text=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [item["id"] for item in found] == [number if number != 100 else None for number in range(130)]
    assert found[100]["error"]["message"].startswith("line 101 is not JSON")
    assert (done.returncode, done.stderr) == (2, "")


def test_each_line_is_answered_before_the_next_is_written() -> None:
    process = subprocess.Popen(
        [*VRAMPLAN, "estimate", "--jsonl", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        for number in range(70):  # past the line where workers take over
            process.stdin.write(LINE % number)
            assert json.loads(process.stdout.readline())["id"] == number
        process.stdin.close()
    assert process.returncode == 0


def test_ctrl_c_while_waiting_is_130() -> None:
    process = subprocess.Popen(
        [*VRAMPLAN, "estimate", "--jsonl", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(LINE % 1)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "")


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal, which this system has not")
@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colour_is_for_terminals_that_want_it(no_color: str, coloured: bool) -> None:
    master, slave = os.openpty()
    environ = {**os.environ, "NO_COLOR": no_color, "TERM": "xterm", "COLUMNS": "80"}
    command = [*VRAMPLAN, "estimate", "HuggingFaceTB/SmolLM2-135M", "--gpu-mem", "24"]
    process = subprocess.Popen(command, stdout=slave, stderr=subprocess.DEVNULL, env=environ)
    os.close(slave)
    out = b""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # Linux says EIO when the other end is closed
            break
        if not chunk:
            break
        out += chunk
    assert process.wait(timeout=20) == 0
    os.close(master)
    assert b"Fits in 24.00 GB" in out
    assert (b"\x1b[" in out) == coloured


def test_an_ascii_terminal_gets_ascii() -> None:
    environ = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [*VRAMPLAN, "estimate", "HuggingFaceTB/SmolLM2-135M"]
    done = subprocess.run(command, capture_output=True, env=environ, check=True)
    done.stdout.decode("ascii")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [["--gpu-mem", "85"], ["--gpu-mem", "85", "--json"]])
def test_a_full_disk_under_stdout_is_one_sentence(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*VRAMPLAN, "estimate", *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr.endswith("error: the answer cannot be written: No space left on device\n")
