"""A card that other processes fill: what `measure` and `doctor` say of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]

_FULL_TORCH = """
__version__ = "2.13.0+cu130"
class version:
    cuda = "13.0"
    hip = None
def ones(*size, **more): raise RuntimeError("CUDA error: out of memory")
class cuda:
    def init(): pass
    def device_count(): return 1
"""


@pytest.fixture
def libraries(tmp_path: Path) -> str:
    """A PYTHONPATH with a torch whose context finds no room, as pip would have installed it."""
    folder = tmp_path / "libraries"
    (folder / "torch").mkdir(parents=True)
    (folder / "torch" / "__init__.py").write_text(_FULL_TORCH)
    (folder / "torch-2.13.0.dist-info").mkdir()
    (folder / "torch-2.13.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0\n")
    return f"{folder}:{REPOSITORY}"


def test_measure_says_who_fills_it_and_how_to_go_on(driver: Any, make: Callable[..., Any], libraries: str) -> None:
    scenario = make("85000000000", processes="4242:84000000000") + "process.4242 /usr/bin/python3 train.py\n"
    done = driver.run(scenario, "measure", "Qwen/Qwen2.5-0.5B", env={"PYTHONPATH": libraries})
    assert done.code == 5, done.err
    error, hint = done.err.splitlines()
    assert error.startswith("error: nothing can be measured on GPU 0: other processes use 85.00 ")
    assert "of its 85.52 GB (PID 4242 python3 84.00 GB), and a CUDA context finds no room" in error
    assert hint.startswith("hint: end them, or measure on another card: --device N")


def test_doctor_says_the_same(driver: Any, make: Callable[..., Any], libraries: str) -> None:
    scenario = make("85000000000", processes="4242:84000000000") + "process.4242 /usr/bin/python3 train.py\n"
    done = driver.run(scenario, "doctor", "--json", env={"PYTHONPATH": libraries})
    checks = {check["id"]: check for check in done.json["checks"]}
    assert (done.code, checks["torch"]["state"], checks["gpu.0"]["state"]) == (5, "fail", "warn")
    assert "PID 4242" in checks["gpu.0"]["detail"]
    assert "finds no room" in checks["torch"]["detail"]
