"""`vramplan doctor` on machines that are whole, that lack something, and that have no driver."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]

_TORCH = """
__version__ = "2.13.0+cu130"
class version:
    cuda = {cuda!r}
    hip = None
bfloat16 = None
class Tensor:
    def add_(self, other): return self
    def sum(self): return self
    def item(self): return 4
def ones(*size, **more): return Tensor()
class cuda:
    def init(): pass
    def is_available(): return True
    def device_count(): return 1
    def synchronize(): pass
"""
_BITSANDBYTES = """
__version__ = "0.50.2"
from bitsandbytes import cextension
class functional:
    def quantize_4bit(weight, quant_type): pass
"""
_NATIVE = """
class {name}:
    compiled_with_cuda = True
    error_msg = "CUDA 13.9 binary not found"
lib = {name}()
"""
_KEYS = {"schema", "can_measure", "works", "driver", "gpus", "versions", "checks"}


@pytest.fixture
def libraries(tmp_path: Path) -> Callable[..., str]:
    """A PYTHONPATH on which torch and bitsandbytes are stand-ins."""

    def make(*, cuda: str | None = "13.0", native: str = "CudaBNBNativeLibrary") -> str:
        for name, files in {
            "torch": {"__init__.py": _TORCH.format(cuda=cuda)},
            "bitsandbytes": {"__init__.py": _BITSANDBYTES, "cextension.py": _NATIVE.format(name=native)},
        }.items():
            folder = tmp_path / "libraries" / name
            folder.mkdir(parents=True)
            for file, text in files.items():
                (folder / file).write_text(text)
        return f"{tmp_path / 'libraries'}:{REPOSITORY}"

    return make


def test_a_whole_machine_exits_0(driver: Any, make: Any, libraries: Callable[..., str]) -> None:
    done = driver.run(make("0"), "doctor", env={"PYTHONPATH": libraries()})
    assert done.code == 0, done.out
    assert "ok    driver        590.48.01, runs CUDA up to 13.1" in done.out
    assert "NVIDIA H100 80GB HBM3, 85.52 GB; profile h100-80gb" in done.out
    assert "built with CUDA 13.0; a kernel ran on 1 GPU" in done.out.replace("\n" + " " * 20, " ")
    assert done.out.endswith("Measuring would work, and so would estimate, simulate, log.\n")
    assert max(map(len, done.out.splitlines())) <= 80


def test_bitsandbytes_that_loads_nothing_is_named(driver: Any, make: Any, libraries: Callable[..., str]) -> None:
    path = libraries(native="ErrorHandlerMockBNBNativeLibrary")
    done = driver.run(make("0"), "doctor", "--json", env={"PYTHONPATH": path})
    (check,) = [one for one in done.json["checks"] if one["id"] == "bitsandbytes"]
    assert (done.code, check["state"]) == (0, "warn")
    assert "CUDA 13.9 binary not found" in check["detail"]


def test_a_cpu_build_of_torch_exits_5(driver: Any, make: Any, libraries: Callable[..., str]) -> None:
    done = driver.run(make("0"), "doctor", "--json", env={"PYTHONPATH": libraries(cuda=None)})
    assert (done.code, done.json["can_measure"]) == (5, False)
    assert done.json["works"] == ["estimate", "simulate", "log"]
    assert set(done.json) == _KEYS
    (gpu,) = done.json["gpus"]
    assert gpu == {"index": "0", "name": "NVIDIA H100 80GB HBM3", "total_bytes": 81559 * 2**20, "used_bytes": 0}


def test_no_driver_exits_5_and_says_what_works(driver: Any, libraries: Callable[..., str]) -> None:
    done = driver.run(None, "doctor", env={"PYTHONPATH": libraries(cuda=None)})
    assert done.code == 5
    assert done.out.startswith("fail  driver        NVML, the NVIDIA driver's library")
    assert done.out.endswith("Measuring would not work here. What works: estimate, simulate.\n")


def test_profiles_that_hide_shipped_ones_are_named(driver: Any, tmp_path: Path, libraries: Callable[..., str]) -> None:
    folder = tmp_path / "mine"
    (folder / "gpus").mkdir(parents=True)
    (folder / "gpus" / "t4.toml").write_text('label = "Tesla T4"\n')
    more = {"PYTHONPATH": libraries(), "VRAMPLAN_PROFILES": str(folder)}
    checks = {one["id"]: one for one in driver.run(None, "doctor", "--json", env=more).json["checks"]}
    assert str(folder) in checks["profiles"]["detail"]
    assert "is used in place of the gpus profile 't4'" in checks["profiles.gpus.t4"]["detail"]
    assert "the table [memory] is missing" in checks["profiles.gpus.t4.file"]["detail"]
    gone = driver.run(None, "doctor", "--json", env=more | {"VRAMPLAN_PROFILES": str(tmp_path / "gone")})
    failed = [one for one in gone.json["checks"] if one["id"] == "profiles"]
    assert [one["state"] for one in failed] == ["fail"]
