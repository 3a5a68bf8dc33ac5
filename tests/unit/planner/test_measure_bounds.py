"""What ends a measurement before it begins, and what must not end one: packages, devices, full disks, other writers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vramplan.catalog.dirs import profile_dirs
from vramplan.catalog.matrices import load_matrix
from vramplan.errors import NoHardwareError, UsageError
from vramplan.monitor.faults import NoDriverError
from vramplan.monitor.health import DriverFacts
from vramplan.planner import bench as bench_module
from vramplan.planner import measure_plan
from vramplan.planner.bench import Bench, open_bench
from vramplan.planner.matrix import run_matrix
from vramplan.planner.measure_plan import Manner, plan_run
from vramplan.planner.measured import _with_snapshot, environment_of
from vramplan.planner.probing import Probed
from vramplan.records.record import Record, RecordAllocator, RecordGpu, RecordOutOfMemory
from vramplan.records.store import append_record, read_records, sole_writer
from vramplan.runfiles.flat import FlatRun

MODEL = "Qwen/Qwen2.5-0.5B"


def test_flash_attention_without_its_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    found = measure_plan.find_spec
    monkeypatch.setattr(measure_plan, "find_spec", lambda name: None if name == "flash_attn" else found(name))
    flat = FlatRun(model=MODEL, attn_implementation="flash_attention_2")
    with pytest.raises(NoHardwareError, match="flash-attn, which is not installed") as caught:
        plan_run(flat, Manner(), Bench(device="cuda"), profile_dirs())
    assert "sdpa" in str(caught.value.hint)
    monkeypatch.setattr(measure_plan, "find_spec", lambda name: name)
    assert plan_run(flat, Manner(), Bench(device="cuda"), profile_dirs()).weights.kind == "random"


def test_an_allocator_setting_that_is_none_is_said_before_anything_runs() -> None:
    pytest.importorskip("torch")
    flat = FlatRun(model=MODEL)
    with pytest.raises(UsageError, match="'colour' is not an allocator setting"):
        plan_run(flat, Manner(conf="colour:red"), Bench(device="cuda"), profile_dirs())
    other = plan_run(flat, Manner(conf="backend:cudaMallocAsync"), Bench(device="cuda"), profile_dirs())
    assert other.conf == "backend:cudaMallocAsync"  # not simulated, and measured all the same


def _without_nvml(monkeypatch: pytest.MonkeyPatch, number: int, environment: dict[str, str]) -> Bench:
    def no_driver() -> Any:
        raise NoDriverError("NVML does not answer", hint=None, status="no driver")

    monkeypatch.setattr(bench_module, "open_nvml", no_driver)
    monkeypatch.setattr(bench_module, "_installed", lambda _: "2.13.0")
    torch = {"version": "2.13.0", "cuda": "13.0", "hip": None, "error": None, "num_devices": 2, "full": []}
    bnb = {"version": "0.50", "error": None, "compiled_with_cuda": True}
    probed = {"torch": Probed(facts=torch), "bitsandbytes": Probed(facts=bnb)}
    silent = DriverFacts(version=None, cuda=None, gpus=(), error="NVML does not answer", hint="")
    return open_bench(number, profile_dirs(), environment=environment, look=lambda: silent, ask=lambda _: probed)


def test_without_nvml_the_device_asked_for_is_the_one_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment_of("", None, _without_nvml(monkeypatch, 1, {}))["CUDA_VISIBLE_DEVICES"] == "1"
    hidden = _without_nvml(monkeypatch, 1, {"CUDA_VISIBLE_DEVICES": "3,GPU-ab"})
    assert environment_of("", None, hidden)["CUDA_VISIBLE_DEVICES"] == "GPU-ab"
    with pytest.raises(UsageError, match="no GPU 2") as caught:
        _without_nvml(monkeypatch, 2, {})
    assert "0 to 1" in str(caught.value.hint)


def _record(**changes: Any) -> Record:
    values: dict[str, Any] = {
        "run": {"model": MODEL},
        "how": "measure",
        "device": "cuda",
        "weights": "random",
        "steps": None,
        "versions": {},
        "gpu": RecordGpu(name="NVIDIA L4"),
        "allocator": RecordAllocator(conf="", backend="native"),
        "phases": (),
        "outcome": "done",
        "when": "2026-11-21T23:42:39Z",
    }
    return Record(**values | changes)


def test_a_snapshot_that_no_disk_takes_costs_no_record(tmp_path: Path) -> None:
    failure = RecordOutOfMemory(
        phase="load", requested_bytes=1, allocated_bytes=1, reserved_bytes=1, snapshot="s.pickle"
    )
    record = _record(outcome="out_of_memory", out_of_memory=failure)
    written = tmp_path / "child.pickle"
    written.write_bytes(b"x")
    assert _with_snapshot(record, written, tmp_path / "new") == record
    assert (tmp_path / "new" / "s.pickle").read_bytes() == b"x"
    (tmp_path / "file").write_text("")
    without = _with_snapshot(record, written, tmp_path / "file")
    assert without.out_of_memory is not None
    assert without.out_of_memory.snapshot is None
    assert "cannot be written" in without.notes[0]
    assert _with_snapshot(_record(), written, tmp_path / "file") == _record()


def test_one_matrix_writes_a_file_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "new" / "r.jsonl"
    with sole_writer(path):
        with pytest.raises(UsageError, match="another vramplan measures into"), sole_writer(path):
            pytest.fail("two writers")
        append_record(path, _record())
    with sole_writer(path):
        assert read_records(path) == (_record(),)
    empty = tmp_path / "empty.jsonl"
    with sole_writer(empty):
        assert empty.exists()
    assert not empty.exists()
    with pytest.raises(UsageError, match="cannot be written"), sole_writer(path / "below"):
        pytest.fail("a file is no folder")


@pytest.mark.parametrize("value", ["inf", "nan", "1e300", "true"])
def test_a_matrix_has_no_endless_runs(tmp_path: Path, value: str) -> None:
    pytest.importorskip("torch")
    path = tmp_path / "long.toml"
    path.write_text(
        f'description = "d"\nsource = "s"\n[[runs]]\nmodel = "{MODEL}"\ntimeout = {value}', encoding="utf-8"
    )
    dirs = profile_dirs()
    with pytest.raises(UsageError, match="timeout must be a number of seconds"):
        run_matrix(
            load_matrix(str(path), dirs),
            Manner(),
            Bench(device="cuda"),
            tmp_path / "r.jsonl",
            profile_dirs=dirs,
            progress=lambda _: None,
        )
