"""Lines of `vramplan doctor` from facts, and libraries whose import crashes or hangs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vramplan.errors import UsageError
from vramplan.monitor.health import Check, DriverFacts, GpuFacts, Holder
from vramplan.planner.doctor import diagnose
from vramplan.planner.doctor_rules import bitsandbytes_check, driver_checks, library_check, others_words, torch_check
from vramplan.planner.probing import Probed, probe

GB = 10**9


HOLDERS = (Holder(pid=42, name="python3", used_bytes=11 * GB), Holder(pid=7, name=None, used_bytes=None))


def _driver(cuda: tuple[int, int] | None = (12, 8), *gpus: GpuFacts) -> DriverFacts:
    return DriverFacts(version="570.1", cuda=cuda, gpus=gpus or (_gpu(),))


def _gpu(**change: Any) -> GpuFacts:
    facts = {"label": "0", "name": "H100", "total_bytes": 80 * GB, "used_bytes": 0, "holders": (), "error": None}
    return GpuFacts(**(facts | change))


def _torch(**change: Any) -> Probed:
    facts = {"version": "2.9.0+cu128", "cuda": "12.8", "hip": None, "num_devices": 1, "full": [], "error": None}
    return Probed(facts=facts | change)


@pytest.mark.parametrize(
    ("probed", "state", "word"),
    [
        (_torch(), "ok", "a kernel ran on 1 GPU"),
        (_torch(cuda="12.9"), "ok", "12.9"),  # a driver runs newer minor versions of its own major one
        (_torch(cuda="13.0"), "fail", "newer than the driver, which runs up to 12.8"),
        (_torch(cuda=None), "fail", "a CPU build"),
        (_torch(cuda=None, hip="6.2"), "fail", "ROCm"),
        (_torch(num_devices=0), "fail", "sees no GPU"),
        (_torch(full=[0]), "fail", "a CUDA context finds no room on the GPU"),
        (_torch(full=[1], num_devices=2), "ok", "a kernel ran on 1 GPU, and found no room on cuda:1"),
        (_torch(error="no kernel image is available"), "fail", "no kernel image is available"),
        (Probed(error="its import died of SIGSEGV"), "fail", "died of SIGSEGV"),
        (None, "fail", "not installed"),
    ],
)
def test_torch_is_held_against_the_driver(probed: Probed | None, state: str, word: str) -> None:
    check = torch_check(None if probed is None else "2.9.0", probed, _driver())
    assert (check.id, check.state) == ("torch", state)
    assert word in check.detail
    assert bool(check.fix) == (state == "fail")


@pytest.mark.parametrize(
    ("probed", "state", "word"),
    [
        (Probed(facts={"version": "0.50", "compiled_with_cuda": True, "error": None}), "ok", "its CUDA library"),
        (Probed(facts={"version": "0.50", "compiled_with_cuda": False, "error": None}), "ok", "its CPU library"),
        (Probed(facts={"version": "0.50", "error": "CUDA binary not found"}), "warn", "CUDA binary not found"),
        (Probed(error="no module named x"), "warn", "no module named x"),
        (None, "warn", "not tried"),
    ],
)
def test_bitsandbytes_speaks_for_itself(probed: Probed | None, state: str, word: str) -> None:
    check = bitsandbytes_check("0.50", probed)
    assert (check.state, bool(check.fix)) == (state, state != "ok")
    assert word in check.detail


def test_a_gpu_line_says_what_would_spoil_a_measurement() -> None:
    gpus = (
        _gpu(),
        _gpu(label="1", holders=HOLDERS, used_bytes=12 * GB),
        _gpu(label="2", total_bytes=None, error="GPU is lost"),
        _gpu(label="3", name="Unheard Of"),
    )
    _, nvml, *lines = driver_checks(_driver(None, *gpus), {"H100": "h100-80gb"})
    assert nvml.detail == "answers, and lists 4 GPUs"
    assert [line.state for line in lines] == ["ok", "warn", "warn", "warn"]
    assert lines[0].detail == "H100, 80.00 GB; profile h100-80gb"
    assert lines[1].detail == "H100: other processes use 12.00 of its 80.00 GB (PID 42 python3 11.00 GB; PID 7)"
    assert "--device" in str(lines[1].fix)
    assert "GPU is lost" in lines[2].detail
    assert lines[3].fix == f"give its memory alone: --gpu-mem {80 * GB // 2**20}MiB"


def test_what_others_hold_is_said_with_as_many_names_as_a_line_bears() -> None:
    many = tuple(Holder(pid=number, name="a", used_bytes=GB) for number in range(5))
    assert others_words(_gpu(used_bytes=5 * GB, holders=many)) == (
        "other processes use 5.00 of its 80.00 GB (PID 0 a 1.00 GB; PID 1 a 1.00 GB; PID 2 a 1.00 GB; and 2 more)"
    )
    unlisted = others_words(_gpu(used_bytes=79 * GB))  # as in a container
    assert unlisted is not None
    assert "79.00 of its 80.00 GB, and NVML does not list them" in unlisted
    assert others_words(_gpu(used_bytes=GB // 2)) is None
    assert others_words(_gpu(total_bytes=None, used_bytes=None)) is None


def test_no_gpu_and_no_driver_are_failures() -> None:
    (check,) = driver_checks(DriverFacts(version=None, cuda=None, gpus=(), error="no driver"), {})
    assert (check.state, check.detail) == ("fail", "no driver")
    *_, last = driver_checks(DriverFacts(version="1", cuda=None, gpus=()), {})
    assert (last.id, last.state) == ("nvml", "fail")


def test_library_versions() -> None:
    known = {"newest": "2.0", "needed": True, "use": ""}
    assert library_check("peft", "1.0", is_unread=False, **known).state == "ok"
    assert library_check("peft", None, is_unread=False, **known).state == "fail"
    newer = library_check("peft", "3.0", is_unread=True, **known)
    assert (newer.state, newer.fix) == ("warn", "plan for a version that was read: --stack peft=2.0")
    optional = library_check("vllm", None, is_unread=False, newest="1", needed=False, use="a vLLM rollout")
    assert (optional.state, optional.detail) == ("ok", "not installed; only a vLLM rollout needs it")


def test_a_failure_names_a_fix() -> None:
    with pytest.raises(ValueError, match="names no fix"):
        Check(id="x", state="fail", what="x", detail="y")


def test_what_works_follows_from_what_failed() -> None:
    from vramplan.catalog import profile_dirs

    good = {
        "torch": _torch(),
        "bitsandbytes": Probed(facts={"version": "1", "compiled_with_cuda": True, "error": None}),
    }

    def works(driver: DriverFacts, probed: dict[str, Probed]) -> tuple[str, ...]:
        return diagnose(profile_dirs, look=lambda: driver, ask=lambda _: probed).works

    none = DriverFacts(version=None, cuda=None, gpus=(), error="no driver")
    assert works(_driver(), good) == ("estimate", "simulate", "log", "measure")
    assert works(_driver(), good | {"bitsandbytes": Probed(error="x")})[-1] == "measure"
    assert works(_driver(), good | {"torch": _torch(cuda=None)}) == ("estimate", "simulate", "log")
    assert works(_driver(), good | {"torch": Probed(error="died")}) == ("estimate", "log")
    assert works(none, good) == ("estimate", "simulate", "measure")  # as in a container without NVML: torch works
    assert works(none, good | {"torch": _torch(error="no driver")}) == ("estimate", "simulate")

    def broken() -> Any:
        raise UsageError("the profile folder x is not there")

    found = diagnose(broken, look=lambda: _driver(), ask=lambda _: good)
    assert not found.can_measure
    assert [check.detail for check in found.checks if check.id == "profiles"] == ["the profile folder x is not there"]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "its import died of SIGSEGV"),
        ("raise ImportError('libcudart.so.12: no such file')", "ImportError: libcudart.so.12: no such file"),
        ("import time; time.sleep(60)", "its import did not end in time"),
        ("import sys; sys.stderr.write('x' * 200_000 + chr(10)); sys.exit(3)", "x" * 200_000),
        ("import os; os._exit(7)", "its import ended with code 7"),
    ],
)
def test_an_import_that_fails_is_a_line(body: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(body + "\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = probe(["torch"], timeout_seconds=2 if "sleep" in body else 60)
    assert found["torch"].error == error
    assert found["torch"].facts == {}
