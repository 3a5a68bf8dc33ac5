"""A driver of our own: the small C library beside this file, built once and loaded by the unmodified nvidia-ml-py."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
GB = 10**9
H100_TOTAL = 81559 * 2**20
H100_RESERVED = 479 * 2**20


@pytest.fixture(scope="session")
def driver_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds libnvidia-ml.so.1."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler here, and the driver of these tests is a small C library")
    folder = tmp_path_factory.mktemp("driver")
    flags = ["-O1", "-shared", "-fPIC", "-fvisibility=hidden", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run(
        [compiler, *flags, "-o", str(folder / "libnvidia-ml.so.1"), str(HERE / "fakenvml.c")],
        check=True,
        capture_output=True,
    )
    return folder


def gpu_lines(index: int, used: str, **more: object) -> str:
    """A whole H100; `used` may be a list, one value a call."""
    fields: dict[str, object] = {
        "name": "NVIDIA H100 80GB HBM3",
        "uuid": f"GPU-{index:08d}-0000-0000-0000-000000000000",
        "pci": f"00000000:{index + 9:02X}:00.0",
        "total": H100_TOTAL,
        "reserved": H100_RESERVED,
        "used": used,
        "utilization": "97 8",
        "temperature": 42,
        "power_mw": 433780,
        **more,
    }
    return "".join(f"gpu.{index}.{key} {value}\n" for key, value in fields.items() if value is not None)


def machine(*used: str, **more: object) -> str:
    """A machine with one H100 for each entry."""
    gpus = "".join(gpu_lines(index, text, **more) for index, text in enumerate(used))
    return f"driver 590.48.01\ncount {len(used)}\n{gpus}"


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, str]]:
        """Standard output as CSV."""
        return read_rows(self.out)

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def read_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def shell_prefix(commands: str) -> list[str]:
    """Settles limits and ignored signals for a program, without a `preexec_fn`, which threads make unsafe."""
    return ["sh", "-c", f'{commands}; exec "$@"', "sh"] if commands else []


@dataclass
class Driver:
    """What the tests start programs against."""

    folder: Path
    tmp_path: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def environment(self, scenario: str | None, **more: str) -> dict[str, str]:
        """None is a machine without the driver's library."""
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TZ": "UTC", "COLUMNS": "80"}
        for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "LD_LIBRARY_PATH"):
            environment.pop(name, None)
        if scenario is None:
            environment["LD_LIBRARY_PATH"] = str(self.empty_folder())
        else:
            path = self.tmp_path / "machine.txt"
            path.write_text(scenario)
            environment.update(LD_LIBRARY_PATH=str(self.folder), VRAMPLAN_FAKE_NVML=str(path))
        return {**environment, **more}

    def empty_folder(self) -> Path:
        """A library that cannot be loaded comes first, so that a real driver on this machine is not found."""
        folder = self.tmp_path / "no-driver"
        folder.mkdir(exist_ok=True)
        (folder / "libnvidia-ml.so.1").write_text("not a library")
        return folder

    def run(self, scenario: str | None, *arguments: str, program: str = "_app.py", **more: Any) -> Result:
        """To the end; `shell` is run in the same process first, the rest is as for subprocess."""
        env = self.environment(scenario, **more.pop("env", {}))
        done = subprocess.run(
            [*shell_prefix(more.pop("shell", "")), sys.executable, str(HERE / program), *arguments],
            env=env,
            cwd=more.pop("cwd", self.tmp_path),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **more,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def start(
        self, scenario: str | None, *arguments: str, program: str = "_app.py", **more: Any
    ) -> subprocess.Popen[str]:
        """In the background; ended with the test at the latest."""
        env = self.environment(scenario, **more.pop("env", {}))
        more = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": self.tmp_path, **more}
        prefix = shell_prefix(more.pop("shell", ""))
        process = subprocess.Popen([*prefix, sys.executable, str(HERE / program), *arguments], env=env, **more)
        self.started.append(process)
        return process

    def door(self, scenario: str | None, rounds: int = 1, *, reopen: bool = False) -> Any:
        """What the door to NVML answers on this machine."""
        result = self.run(scenario, str(rounds), *(["reopen"] if reopen else []), program="_door.py")
        assert result.code == 0, result.err
        return result.json


@pytest.fixture
def driver(driver_folder: Path, tmp_path: Path) -> Any:
    made = Driver(driver_folder, tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Until it holds; failing is a matter of half a minute, never of a slow machine."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            pytest.fail("what was waited for did not come")
        time.sleep(0.01)


@pytest.fixture
def until() -> Callable[..., None]:
    return wait_for


@pytest.fixture
def make() -> Callable[..., str]:
    return machine
