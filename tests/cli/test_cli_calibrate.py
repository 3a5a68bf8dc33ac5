"""`vramplan calibrate`: synthetic records in, a profile out that estimates use and name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vramplan.catalog import profile_dirs
from vramplan.catalog.gpus import read_gpu
from vramplan.records.record import Record, RecordAllocator, RecordGpu, RecordPhase
from vramplan.records.store import append_record
from vramplan.units import MiB

H100 = "NVIDIA H100 80GB HBM3"
MODEL = "Qwen/Qwen2.5-0.5B"


@pytest.fixture
def write(vramplan: Callable[..., Any], tmp_path: Path) -> Callable[..., str]:
    """Records of runs that took what an estimate says, but for what lies above reserved."""
    reports: dict[int, Any] = {}

    def call(file_name: str, /, *above: int, driver: str = "590.48.01", **gpu: Any) -> str:
        card = {"name": H100, "profile": "h100-80gb", "context_bytes": 500 * MiB} | gpu
        file = tmp_path / file_name
        for number, above_bytes in enumerate(above):
            rows = 1 + number % 3
            if rows not in reports:
                flags = ("--method", "sft", "--per-device-batch-size", str(rows), "--gpu", "h100-80gb", "--json")
                reports[rows] = json.loads(vramplan("estimate", MODEL, *flags).out)
            report = reports[rows]
            phases = tuple(
                RecordPhase(
                    name=phase["name"],
                    allocated_bytes=phase["allocated_bytes"],
                    reserved_bytes=phase["reserved_bytes"],
                    device_used_bytes=phase["reserved_bytes"] + above_bytes + 3 * MiB,
                )
                for phase in report["phases"]
            )
            record = Record(
                run={"model": MODEL, "method": "sft", "per_device_batch_size": rows},
                how="measure",
                device="cuda",
                weights="random",
                steps=2,
                versions={},
                gpu=RecordGpu(driver=driver, baseline_used_bytes=3 * MiB, **card),
                allocator=RecordAllocator(conf="", backend="native"),
                phases=phases,
                outcome="done",
                when=f"2026-11-21T10:00:{number:02d}Z",
            )
            append_record(file, record)
        return str(file)

    return call


_ABOVE = [(620 + wobble) * MiB for wobble in (0, 1, -1, 2, -2, 0, 1)]


def test_a_profile_is_written_that_estimates_use_and_name(
    vramplan: Callable[..., Any], write: Callable[..., str], tmp_path: Path
) -> None:
    records = write("r.jsonl", *_ABOVE)
    said = vramplan("calibrate", records, "--output", str(tmp_path / "mine"))
    assert said.code == 0, said.err
    assert max(map(len, said.out.splitlines())) <= 80
    profile = tmp_path / "mine" / "gpus" / "h100-80gb.toml"
    assert f"written: {profile}" in said.err
    gpu = read_gpu(profile)
    shipped = read_gpu(profile_dirs().shipped / "gpus" / "h100-80gb.toml")
    assert (gpu.context_bytes, gpu.context_basis) == (620 * MiB, "measured")
    assert "the median of 7 records, driver 590.48.01" in gpu.context_source
    assert "500 MiB of it the bare context and 120 MiB libraries" in gpu.context_source
    assert (gpu.total_bytes, gpu.torch_total_bytes, gpu.aliases) == (
        shipped.total_bytes,
        shipped.torch_total_bytes,
        shipped.aliases,
    )
    asked = ("estimate", MODEL, "--gpu", H100, "--json")
    before, after = (
        json.loads(vramplan(*asked, *more).out) for more in ((), ("--profile-dir", str(tmp_path / "mine")))
    )
    assert {phase["components"]["context"] for phase in after["phases"]} == {620 * MiB}
    assert any("is used in place of the gpus profile 'h100-80gb'" in line for line in after["assumptions"])
    assert not any("in place of" in line for line in before["assumptions"])
    again = vramplan("calibrate", records, "--profile-dir", str(tmp_path / "mine"), "--json", "--dry-run")
    (card,) = json.loads(again.out)["cards"]
    assert card["context"]["before_bytes"] == 620 * MiB
    assert card["reason"] == "held-out records are as near to what is taken now"


def test_json_keys_are_frozen(vramplan: Callable[..., Any], write: Callable[..., str], tmp_path: Path) -> None:
    said = vramplan("calibrate", write("r.jsonl", *_ABOVE), "--json", "--dry-run", "--output", str(tmp_path / "mine"))
    found = json.loads(said.out)
    assert set(found) == {"schema", "dry_run", "min_records", "min_band_records", "cards", "written"}
    (card,) = found["cards"]
    assert set(card) == {
        "gpu",
        "driver",
        "profile",
        "num_records",
        "is_enough",
        "is_better",
        "reason",
        "context",
        "cublas_workspace",
        "bands",
        "held_out",
        "far_off",
        "newest",
    }
    held_out = card["held_out"]
    assert held_out["above_reserved_bytes"]["fitted"]["median"] < held_out["above_reserved_bytes"]["before"]["median"]
    assert held_out["device_ratio"]["fitted"]["median"] < held_out["device_ratio"]["before"]["median"]
    assert (found["written"], (tmp_path / "mine").exists()) == ([], False)  # a dry run


def test_too_few_say_so_and_change_nothing(
    vramplan: Callable[..., Any], write: Callable[..., str], tmp_path: Path
) -> None:
    said = vramplan("calibrate", write("r.jsonl", *_ABOVE[:5]), "--output", str(tmp_path / "mine"))
    assert said.code == 3
    assert "5 records\n  too few: 6 are needed" in said.out
    assert said.out.endswith("Nothing was changed: a fit needs 6 records of one GPU and driver.\n")
    assert not (tmp_path / "mine").exists()


def test_each_gpu_and_driver_is_fitted_apart(
    vramplan: Callable[..., Any], write: Callable[..., str], tmp_path: Path
) -> None:
    folder = tmp_path / "records"
    write("records/a.jsonl", *_ABOVE)
    write("records/b.jsonl", *(above - 100 * MiB for above in _ABOVE), driver="535.9")
    write("records/c.jsonl", *_ABOVE[:2], driver="600.1")
    write("records/d.jsonl", *(above + 50 * MiB for above in _ABOVE), name="Tesla T4", profile="t4")
    said = vramplan("calibrate", str(folder), "--json", "--output", str(tmp_path / "mine"))
    cards = json.loads(said.out)["cards"]
    assert [(one["gpu"], one["driver"], one["context"]["fitted_bytes"]) for one in cards] == [
        (H100, "535.9", 520 * MiB),
        (H100, "590.48.01", 620 * MiB),
        (H100, "600.1", None),
        ("Tesla T4", "590.48.01", 670 * MiB),
    ]
    assert [one["reason"] for one in cards] == [
        "driver 590.48.01 is newer, and a profile holds one",
        None,
        "too few records",
        None,
    ]
    assert sorted(path.name for path in (tmp_path / "mine" / "gpus").iterdir()) == ["h100-80gb.toml", "t4.toml"]
    assert (said.code, read_gpu(tmp_path / "mine" / "gpus" / "h100-80gb.toml").context_bytes) == (0, 620 * MiB)


def test_the_answer_does_not_depend_on_the_order(
    vramplan: Callable[..., Any], write: Callable[..., str], tmp_path: Path
) -> None:
    lines = Path(write("r.jsonl", *_ABOVE)).read_text().splitlines(keepends=True)
    (tmp_path / "back.jsonl").write_text("".join([*reversed(lines), *lines]))  # and no record counts twice
    outs = [vramplan("calibrate", str(tmp_path / file), "--dry-run").out for file in ("r.jsonl", "back.jsonl")]
    assert outs[0] == outs[1]


def test_a_card_without_a_profile_gets_one(
    vramplan: Callable[..., Any], write: Callable[..., str], tmp_path: Path
) -> None:
    card = {
        "name": "NVIDIA X9000",
        "profile": None,
        "total_bytes": 48 * 2**30,
        "compute_capability": "9.0",
        "num_multiprocessors": 100,
    }
    said = vramplan("calibrate", write("r.jsonl", *_ABOVE, **card), "--output", str(tmp_path))
    assert said.code == 0
    gpu = read_gpu(tmp_path / "gpus" / "nvidia-x9000.toml")
    assert (gpu.label, gpu.total_bytes, gpu.context_bytes) == ("NVIDIA X9000", 48 * 2**30, 620 * MiB)
    unknown = vramplan("calibrate", write("u.jsonl", *_ABOVE, name="NVIDIA X1", profile=None), "--dry-run")
    assert unknown.code == 3
    assert "NVIDIA X1 has no profile, and the record does not say enough for one" in unknown.err


def test_somebody_elses_profile_is_left(
    vramplan: Callable[..., Any], write: Callable[..., str], tmp_path: Path
) -> None:
    mine = tmp_path / "mine" / "gpus" / "h100-80gb.toml"
    mine.parent.mkdir(parents=True)
    mine.write_text("# my own\n")
    said = vramplan("calibrate", write("r.jsonl", *_ABOVE), "--output", str(tmp_path / "mine"))
    assert said.code == 2
    assert "was not written by calibrate, and is left as it is" in said.err
    assert mine.read_text() == "# my own\n"


def test_a_band_of_ones_own_is_used(vramplan: Callable[..., Any], tmp_path: Path) -> None:
    shipped = (profile_dirs().shipped / "gpus" / "h100-80gb.toml").read_text()
    profile = tmp_path / "gpus" / "h100-80gb.toml"
    profile.parent.mkdir()
    profile.write_text(shipped + '\n[band]\ninference = [0.01, 0.02]\nsource = "mine"\n')
    peak = json.loads(vramplan("estimate", MODEL, "--gpu", "h100-80gb", "--json", "--profile-dir", str(tmp_path)).out)[
        "peak"
    ]
    assert peak["low_bytes"] == int(peak["device_used_bytes"] * 0.99)
    assert peak["high_bytes"] == int(peak["device_used_bytes"] * 1.02)
    profile.write_text(shipped + '\n[band]\ninference = [0.01]\nsource = "mine"\n')
    with pytest.raises(ValueError, match=r"band\.inference is not a list of two numbers"):
        read_gpu(profile)


def test_without_records_there_is_nothing_to_fit(vramplan: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    said = vramplan("calibrate", str(tmp_path / "none"))
    assert (said.code, said.out) == (3, "There are no records to fit; 6 of one GPU and driver are needed.\n")
    gone = vramplan("calibrate", str(tmp_path / "gone"))
    assert gone.code == 2
    assert gone.err.startswith(f"error: {tmp_path / 'gone'} is not there")
