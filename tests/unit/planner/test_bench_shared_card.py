"""A card that others use as well: measured all the same, and the record says so."""

from __future__ import annotations

from typing import Any

import pytest

from vramplan.catalog.dirs import profile_dirs
from vramplan.errors import NoHardwareError
from vramplan.monitor.faults import NoDriverError
from vramplan.monitor.health import DriverFacts, GpuFacts, Holder
from vramplan.monitor.sample import Device, Memory
from vramplan.planner import bench as bench_module
from vramplan.planner.bench import open_bench
from vramplan.planner.probing import Probed

GB = 10**9
TORCH: dict[str, Any] = {"version": "2.13.0", "cuda": "13.0", "hip": None, "num_devices": 2, "full": [], "error": None}


class Door:
    """NVML of a machine with two cards."""

    def devices(self) -> tuple[Device, ...]:
        return tuple(Device(index=number, uuid=f"GPU-{number}", name="NVIDIA L4") for number in range(2))

    def memory(self, device: Device) -> Memory:
        return Memory(total_bytes=24 * GB, used_bytes=0, free_bytes=0, reserved_bytes=0)

    def driver_version(self) -> str:
        return "580.1"


def _driver(*used: int) -> DriverFacts:
    gpus = tuple(
        GpuFacts(
            label=str(number),
            name="NVIDIA L4",
            total_bytes=24 * GB,
            used_bytes=size,
            holders=(Holder(pid=7, name="python3", used_bytes=size),) if size else (),
            error=None,
        )
        for number, size in enumerate(used)
    )
    return DriverFacts(version="580.1", cuda=(13, 0), gpus=gpus)


def _open(monkeypatch: pytest.MonkeyPatch, number: int, facts: dict[str, Any], driver: DriverFacts) -> Any:
    monkeypatch.setattr(bench_module, "_installed", lambda name: "2.13.0" if name == "torch" else None)
    monkeypatch.setattr(bench_module, "open_nvml", Door)
    probed = {"torch": Probed(facts=facts)}
    return open_bench(number, profile_dirs(), environment={}, look=lambda: driver, ask=lambda _: probed)


def test_what_others_hold_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _open(monkeypatch, 0, TORCH, _driver(0, 9 * GB)).note is None
    note = _open(monkeypatch, 1, TORCH, _driver(0, 9 * GB)).note
    assert "other processes use 9.00 of its 24.00 GB (PID 7 python3 9.00 GB)" in note
    assert "only what they left" in note


def test_one_full_card_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    facts, driver = TORCH | {"full": [0]}, _driver(24 * GB, 0)
    assert _open(monkeypatch, 1, facts, driver).card.uuid == "GPU-1"
    with pytest.raises(NoHardwareError) as caught:
        _open(monkeypatch, 0, facts, driver)
    assert "nothing can be measured on GPU 0: other processes use 24.00 of its 24.00 GB (PID 7" in caught.value.message
    assert "--device N" in str(caught.value.hint)


def test_a_full_card_without_nvml_is_said_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise NoDriverError("no library", hint=None, status="driver_not_loaded")

    monkeypatch.setattr(bench_module, "_installed", lambda name: "2.13.0" if name == "torch" else None)
    monkeypatch.setattr(bench_module, "open_nvml", none)
    driver = DriverFacts(version=None, cuda=None, gpus=(), error="no library")
    probed = {"torch": Probed(facts=TORCH | {"num_devices": 1, "full": [0]})}
    with pytest.raises(NoHardwareError, match="other processes fill it"):
        open_bench(0, profile_dirs(), environment={}, look=lambda: driver, ask=lambda _: probed)
