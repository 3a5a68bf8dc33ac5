"""Around a measuring process: samples put to phases, records, weights, benches, matrices."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vramplan.catalog.dirs import ProfileDirs, profile_dirs
from vramplan.catalog.matrices import load_matrix
from vramplan.core.report import Component
from vramplan.errors import CannotTellError, NoHardwareError, UsageError
from vramplan.monitor.health import DriverFacts
from vramplan.monitor.sample import Device, Memory
from vramplan.output.json_report import report_to_dict
from vramplan.output.measured_text import render_matrix, render_measured
from vramplan.planner import bench as bench_module
from vramplan.planner.answer import answer, prepare
from vramplan.planner.bench import TEST_DEVICE, Bench, open_bench
from vramplan.planner.checkpoints import choose_weights
from vramplan.planner.device_eye import Card, Eye, NvmlSight, find_device
from vramplan.planner.matrix import run_matrix
from vramplan.planner.measure_plan import Manner, plan_run
from vramplan.planner.measured import Measured, environment_of
from vramplan.planner.measured_record import gpu_of, out_of_memory_of, outcome_of, phases_of, prediction_of, stopped_in
from vramplan.planner.measured_report import measured_report
from vramplan.planner.probing import Probed
from vramplan.program.supervise import Finished
from vramplan.records.record import Record, RecordAllocator, RecordGpu, RecordOutOfMemory, RecordPhase
from vramplan.records.store import append_record, read_records
from vramplan.runfiles.flat import FlatRun

CONTEXT = {"event": "context", "time": 1.0, "settled": 1.5, "gpu": {"name": "cpu", "backend": "cpu"}}
NO_DRIVER = DriverFacts(version=None, cuda=None, gpus=(), error="the driver is not there", hint="install it")
A_DRIVER = DriverFacts(version="1", cuda=(13, 0), gpus=())


def _phase(name: str, begin: float, **numbers: Any) -> dict[str, Any]:
    values = {
        "allocated_bytes": 10,
        "reserved_bytes": 20,
        "end_allocated_bytes": 5,
        "end_reserved_bytes": 20,
        "free_bytes": 100,
        "num_alloc_retries": 0,
        "num_ooms": 0,
    }
    times = {"begin": begin, "end": begin + 1, "settled": begin + 1.5}
    return {"event": "phase", "phase": name, **times, **values, **numbers}


def _finished(*events: Mapping[str, Any], **how: Any) -> Finished:
    values: dict[str, Any] = {"exit_code": 0, "timed_out": False, "interrupted": False, "complaint": ""}
    return Finished(events=events, **values | how)


def _eye(*samples: tuple[float, int]) -> Eye:
    eye = Eye(Counting())
    eye._samples = list(samples)
    return eye


class Counting:
    """A card whose use grows by one with each look."""

    def __init__(self) -> None:
        self.used = 0

    def used_bytes(self) -> int | None:
        self.used += 1
        return self.used if self.used != 2 else None


def test_an_eye_looks_until_it_is_stopped() -> None:
    eye = Eye(Counting(), interval_seconds=0.001)
    begin = time.monotonic()
    assert eye.start() == 1
    while eye.highest(begin, time.monotonic()) is None:
        time.sleep(0.001)
    eye.stop()
    end = time.monotonic()
    seen = eye.highest(begin, end)
    assert seen is not None
    assert seen >= 3  # the second look got no answer
    assert eye.last(begin, end) == seen
    assert eye.highest(begin - 2, begin - 1) is None
    time.sleep(0.005)
    assert eye.last(begin, time.monotonic()) == seen


def test_samples_are_put_to_the_phase_in_which_they_were_taken() -> None:
    eye = _eye((0.5, 100), (1.4, 130), (2.2, 900), (3.1, 400), (3.4, 410), (9.0, 999))
    finished = _finished(CONTEXT, _phase("load", 2.0))
    phases = phases_of(finished, eye)
    assert phases[0].device_used_bytes == 900
    assert phases[0].end_device_used_bytes == 410
    assert gpu_of(finished, None, eye, baseline_used_bytes=100, profile=None).context_bytes == 30
    assert gpu_of(finished, None, None, baseline_used_bytes=None, profile=None).context_bytes is None
    assert phases_of(finished, None)[0].device_used_bytes is None


def test_forward_and_backward_are_one_phase_at_its_highest() -> None:
    first = _phase("forward", 1.0, allocated_bytes=10, reserved_bytes=40, free_bytes=9, num_alloc_retries=1)
    second = _phase("backward", 2.0, allocated_bytes=30, reserved_bytes=35, free_bytes=4)
    optimizer = _phase("optimizer", 3.0)
    third = _phase("forward", 4.0, allocated_bytes=20, free_bytes=None)
    train, step = phases_of(_finished(first, second, optimizer, third), None)
    assert (train.name, step.name) == ("train", "optimizer")
    assert (train.allocated_bytes, train.reserved_bytes, train.free_bytes) == (30, 40, 4)
    assert (train.num_alloc_retries, train.seconds, train.num_repeats) == (1, 3.0, 3)


@pytest.mark.parametrize(
    ("finished", "outcome", "words"),
    [
        (_finished({"event": "end", "outcome": "done"}), "done", None),
        (_finished(exit_code=-9, timed_out=True), "timed_out", "within 7 s"),
        (_finished(exit_code=-9, interrupted=True), "interrupted", "interrupted"),
        (_finished(exit_code=-9), "killed", "the host may have run out of memory"),
        (_finished(exit_code=-11), "killed", "signal 11"),
        (_finished(exit_code=1, complaint="ImportError: no"), "failed", "ImportError: no"),
        (_finished(exit_code=3), "failed", "code 3"),
        (_finished({"event": "end", "outcome": "failed", "message": "x"}, exit_code=1), "failed", "x"),
    ],
)
def test_each_end_has_its_word(finished: Finished, outcome: str, words: str | None) -> None:
    found, message = outcome_of(finished, 7.0)
    assert found == outcome
    assert (message is None) == (words is None)
    assert words is None or words in str(message)


def test_the_phase_that_had_begun_is_named() -> None:
    mark = {"event": "mark", "phase": "load"}
    begun = {"event": "mark", "phase": "backward"}
    assert stopped_in(_finished(mark, _phase("load", 0.0), begun)) == "train"
    assert stopped_in(_finished(mark, _phase("load", 0.0))) is None
    assert stopped_in(_finished()) is None


def test_an_out_of_memory_names_its_snapshot_only_where_there_is_one() -> None:
    end = {"event": "end", "outcome": "out_of_memory", "phase": "forward", "message": "m", "requested_bytes": None}
    held = {"allocated_bytes": 1, "reserved_bytes": 2}
    found = out_of_memory_of(_finished({**end, **held, "has_snapshot": True}), "s.pickle")
    assert found == RecordOutOfMemory(
        phase="train", requested_bytes=None, allocated_bytes=1, reserved_bytes=2, snapshot="s.pickle"
    )
    without = out_of_memory_of(_finished({**end, **held, "has_snapshot": False}), "s.pickle")
    assert without is not None
    assert without.snapshot is None
    assert out_of_memory_of(_finished({"event": "end", "outcome": "done"}), "s.pickle") is None


class Door:
    """NVML of a machine with two cards."""

    def devices(self) -> tuple[Device, ...]:
        return (Device(index=0, uuid="GPU-aa", name="A"), Device(index=1, uuid="GPU-bb", name="A"))

    def memory(self, device: Device) -> Memory:
        return Memory(total_bytes=100, used_bytes=10 + device.index, free_bytes=90, reserved_bytes=1)

    def driver_version(self) -> str:
        return "580.1"


def test_a_device_is_numbered_as_cuda_numbers_it_here() -> None:
    door: Any = Door()
    assert find_device(door, 1, {}).uuid == "GPU-bb"
    assert find_device(door, 0, {"CUDA_VISIBLE_DEVICES": "1"}).uuid == "GPU-bb"
    with pytest.raises(UsageError, match="no GPU 1") as caught:
        find_device(door, 1, {"CUDA_VISIBLE_DEVICES": "1"})
    assert "0 (A)" in str(caught.value.hint)
    sight = NvmlSight(door, find_device(door, 1, {}))
    assert sight.card() == Card(name="A", uuid="GPU-bb", total_bytes=100, driver="580.1", visible="GPU-bb")
    assert sight.used_bytes() == 11


@pytest.mark.parametrize(
    ("version", "facts", "driver", "words"),
    [
        ("2.13.0+cpu", None, NO_DRIVER, ("CPU build", "the driver is not there")),
        (
            "2.13.0",
            {"cuda": "13.0", "hip": None, "error": "found none", "num_devices": 0, "full": []},
            NO_DRIVER,
            ("the driver is",),
        ),
        (
            "2.13.0",
            {"cuda": "13.0", "hip": None, "error": None, "num_devices": 0, "full": []},
            A_DRIVER,
            ("sees no GPU",),
        ),
        (None, None, A_DRIVER, ("torch not installed",)),
    ],
    ids=["cpu build", "no driver", "no gpu", "no torch"],
)
def test_what_is_missing_is_said_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
    version: str | None,
    facts: dict[str, Any] | None,
    driver: DriverFacts,
    words: tuple[str, ...],
) -> None:
    monkeypatch.setattr(bench_module, "_installed", lambda name: version if name == "torch" else None)
    probed = {} if facts is None else {"torch": Probed(facts={"version": version, **facts})}
    with pytest.raises(NoHardwareError) as caught:
        open_bench(0, profile_dirs(), environment={}, look=lambda: driver, ask=lambda _: probed)
    for word in words:
        assert word in caught.value.message
    assert caught.value.message.count("\n") == 0
    assert "vramplan simulate" in str(caught.value.hint)


def test_the_bench_of_tests_has_a_capacity() -> None:
    dirs = profile_dirs()
    assert open_bench(0, dirs, environment={TEST_DEVICE: "cpu:12"}).capacity_bytes == 12
    assert open_bench(0, dirs, environment={TEST_DEVICE: "cpu"}).capacity_bytes is None
    with pytest.raises(UsageError, match="cpu:BYTES"):
        open_bench(0, dirs, environment={TEST_DEVICE: "gpu"})


def test_bitsandbytes_that_does_not_load_is_named_where_it_is_needed() -> None:
    pytest.importorskip("torch")
    bench = Bench(device="cuda", bitsandbytes="0.50 loads no native library: no kernel", fix="python3 -m bitsandbytes")
    flat = FlatRun(model="Qwen/Qwen2.5-0.5B", quantization="int8")
    with pytest.raises(NoHardwareError, match=r"bitsandbytes 0\.50 loads no native library: no kernel"):
        plan_run(flat, Manner(), bench, profile_dirs())
    optimizer = FlatRun(model="Qwen/Qwen2.5-0.5B", method="sft", optim="paged_adamw_8bit", tuning="lora")
    with pytest.raises(NoHardwareError, match="bitsandbytes"):
        plan_run(optimizer, Manner(), bench, profile_dirs())
    assert plan_run(replace(flat, quantization=None), Manner(), bench, profile_dirs()).weights.kind == "random"


def test_runs_that_one_process_cannot_be_are_refused() -> None:
    pytest.importorskip("torch")
    bench = Bench(device="cuda")
    sharded = FlatRun(model="Qwen/Qwen2.5-0.5B", method="sft", num_gpus=2, sharding="ddp")
    with pytest.raises(CannotTellError, match="one GPU"):
        plan_run(sharded, Manner(), bench, profile_dirs())
    colocated = FlatRun(model="Qwen/Qwen2.5-0.5B", method="grpo", rollout="vllm-colocate", quantization="int8")
    with pytest.raises(CannotTellError, match="vLLM"):
        plan_run(colocated, Manner(), bench, profile_dirs())


def test_the_card_is_settled_and_no_part_of_the_key() -> None:
    pytest.importorskip("torch")
    flat = FlatRun(model="Qwen/Qwen2.5-0.5B", stack={"transformers": "4.51.1"})
    one = plan_run(flat, Manner(), Bench(device="cuda", profile="h100-80gb"), profile_dirs())
    other = plan_run(flat, Manner(), Bench(device="cuda", profile="l4"), profile_dirs())
    assert (one.flat.gpu, other.flat.gpu) == ("h100-80gb", "l4")
    assert one.key == other.key
    assert one.flat.stack is None
    assert "not with transformers 4.51.1" in str(one.note)
    conf = plan_run(flat, Manner(conf="max_split_size_mb:64"), Bench(device="cuda"), profile_dirs())
    assert conf.key != one.key
    workspaces = [None, ":16:8", ":4096:2:16:8"]
    keys = {
        plan_run(flat, Manner(cublas_workspace_config=text), Bench(device="cuda"), profile_dirs()).key
        for text in workspaces
    }
    assert len(keys) == len(workspaces)


def test_variables_of_the_process() -> None:
    card = Card(name="A", uuid="GPU-aa", total_bytes=1, driver="1", visible="GPU-aa")
    assert environment_of("max_split_size_mb:64", ":16:8", Bench(device="cuda", card=card)) == {
        "PYTORCH_ALLOC_CONF": "max_split_size_mb:64",
        "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64",
        "CUBLAS_WORKSPACE_CONFIG": ":16:8",
        "CUDA_VISIBLE_DEVICES": "GPU-aa",
    }
    assert environment_of("", None, Bench(device="cpu")) == {
        "PYTORCH_ALLOC_CONF": None,
        "PYTORCH_CUDA_ALLOC_CONF": None,
    }


def test_weights_come_from_a_checkpoint_where_every_role_has_one(tmp_path: Path) -> None:
    full, empty = tmp_path / "full", tmp_path / "empty"
    for folder in (full, empty):
        folder.mkdir()
    (full / "model.safetensors").write_bytes(b"")
    both = choose_weights(None, {"teacher": str(full), "student": str(full)})
    assert (both.kind, both.folders, both.note) == (
        "checkpoint",
        {"teacher": str(full), "student": str(full)},
        None,
    )
    one = choose_weights(None, {"teacher": str(full), "student": str(empty)})
    assert (one.kind, one.folders) == ("random", {})
    assert str(empty) in str(one.note)
    assert choose_weights("random-checkpoint", {"model": str(full)}).kind == "random-checkpoint"
    with pytest.raises(UsageError, match="holds no weights"):
        choose_weights("checkpoint", {"model": str(empty)})
    assert choose_weights("checkpoint", {"model": "no/such-model"}).folders == {"model": "no/such-model"}


def _record(flat: FlatRun, **changes: Any) -> Record:
    guess = prediction_of(answer(flat, profile_dirs=profile_dirs()))
    values: dict[str, Any] = {
        "run": flat.to_dict(),
        "how": "measure",
        "device": "cuda",
        "weights": "random",
        "steps": None,
        "versions": {"torch": "2.13.0", "vllm": None},
        "gpu": RecordGpu(name="NVIDIA L4", baseline_used_bytes=500, context_bytes=100, torch_total_bytes=10_000),
        "allocator": RecordAllocator(conf="", backend="native"),
        "phases": (
            RecordPhase(
                name="load", allocated_bytes=1200, reserved_bytes=2000, device_used_bytes=2700, end_allocated_bytes=1000
            ),
            RecordPhase(name="prefill", allocated_bytes=1500, reserved_bytes=2500, device_used_bytes=3300),
        ),
        "outcome": "done",
        "estimate": guess,
        "when": "2026-11-21T23:42:39Z",
    }
    return Record(**values | changes)


def test_a_report_has_the_records_totals_and_the_keys_of_an_estimate() -> None:
    flat = FlatRun(model="Qwen/Qwen2.5-0.5B", gpu="l4")
    prepared = prepare(flat, profile_dirs())
    record = _record(flat)
    report = measured_report(flat, prepared, record, profile_dirs=profile_dirs())
    assert report is not None
    load, prefill = report.phases
    assert (load.allocated_bytes, load.reserved_bytes, load.device_used_bytes) == (1200, 2000, 2200)
    assert (prefill.allocated_bytes, prefill.reserved_bytes, prefill.device_used_bytes) == (1500, 2500, 2800)
    assert prefill.component_bytes(Component.CONTEXT) == 300
    assert (report.peak.low_bytes, report.peak.high_bytes) == (2800, 2800)
    values = report_to_dict(report)
    assert values["how"] == "measure"
    assert values.keys() == report_to_dict(answer(flat, profile_dirs=profile_dirs())).keys()
    assert values["budget"]["verdict"] == "fits"
    text = render_measured(record, report, units="bytes", width=80)
    assert "1,500" in text
    assert "Measured on NVIDIA L4" in text
    assert "+0.0%" not in text  # an estimate of 0.5B parameters is not 1,500 bytes


def test_a_run_that_ran_out_does_not_fit_and_has_no_peaks_in_the_summary() -> None:
    flat = FlatRun(model="Qwen/Qwen2.5-0.5B", gpu="l4")
    failure = RecordOutOfMemory(phase="decode", requested_bytes=7, allocated_bytes=1600, reserved_bytes=2600)
    record = _record(flat, outcome="out_of_memory", out_of_memory=failure, stopped_in="decode", message="full")
    report = measured_report(flat, prepare(flat, profile_dirs()), record, profile_dirs=profile_dirs())
    assert report is not None
    assert report.phases[-1].name == "decode"
    assert report.phases[-1].allocated_bytes == 1600
    assert report.budget is not None
    assert report.budget.verdict.value == "does_not_fit"
    assert report.out_of_room is not None
    assert report.out_of_room.requested_bytes == 7
    line = render_matrix([record], units="GB", width=120).splitlines()[-1]
    assert "out of memory" in line
    assert line.split()[-9:] == ["-"] * 9


def test_nothing_measured_is_no_report() -> None:
    flat = FlatRun(model="Qwen/Qwen2.5-0.5B", gpu="l4")
    record = _record(flat, phases=(), outcome="killed", message="signal 9 ended it")
    assert measured_report(flat, prepare(flat, profile_dirs()), record, profile_dirs=profile_dirs()) is None
    assert "signal 9" in render_measured(record, None, units="GB", width=80)


MATRIX = """
description = "two models, three precisions"
source = "this test"

[defaults]
method = "sft"
tuning = "lora"
max_seq_length = 64
weights = "random"
steps = 3

[[runs]]
model = ["Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-1.5B"]
vary_precision = [{ quantization = "none" }, { quantization = "nf4", double_quant = true }]
lora_target_modules = [["q_proj"], ["q_proj", "v_proj"]]

[[runs]]
model = "Qwen/Qwen2.5-0.5B"
allocator_conf = ["", "expandable_segments:True"]
method = "score"
"""


class Bencher:
    """Measures nothing, and gives a record of what it was asked."""

    def __init__(self, **outcomes: dict[str, Any]) -> None:
        self.asked: list[tuple[FlatRun, Manner]] = []
        self.outcomes = outcomes

    def __call__(self, planned: Any, manner: Manner, bench: Bench, *, profile_dirs: ProfileDirs) -> Measured:
        self.asked.append((planned.flat, manner))
        changes = self.outcomes.get(f"run{len(self.asked)}", {})
        record = _record(
            planned.flat,
            steps=manner.steps if planned.flat.method == "sft" else None,
            allocator=RecordAllocator(conf=manner.conf or "", backend="native"),
            **changes,
        )
        guess = answer(planned.flat, profile_dirs=profile_dirs)
        interrupted = record.outcome == "interrupted"
        return Measured(record=record, report=None, estimate=guess, simulate=None, was_interrupted=interrupted)


def _run(tmp_path: Path, bencher: Bencher, said: list[str] | None = None) -> Any:
    pytest.importorskip("torch")
    file = tmp_path / "two.toml"
    file.write_text(MATRIX, encoding="utf-8")
    dirs = profile_dirs()
    return run_matrix(
        load_matrix(str(file), dirs),
        Manner(),
        Bench(device="cuda", profile="l4"),
        tmp_path / "records.jsonl",
        profile_dirs=dirs,
        progress=(said if said is not None else []).append,
        measure=bencher,
    )


def test_a_matrix_is_the_product_of_its_lists(tmp_path: Path) -> None:
    bencher, said = Bencher(), []
    result = _run(tmp_path, bencher, said)
    assert len(bencher.asked) == len(result.records) == 2 * 2 * 2 + 2
    lora = [flat for flat, _ in bencher.asked if flat.method == "sft"]
    assert {flat.lora_target_modules for flat in lora} == {("q_proj",), ("q_proj", "v_proj")}
    assert {(flat.quantization, flat.double_quant) for flat in lora} == {("none", None), ("nf4", True)}
    assert {manner.steps for _, manner in bencher.asked} == {3}
    assert [manner.conf for flat, manner in bencher.asked if flat.method == "score"] == ["", "expandable_segments:True"]
    assert said[0].startswith("10 runs, 0 of them measured before")
    assert any("left" in line for line in said)
    assert read_records(tmp_path / "records.jsonl") == result.records


def test_an_interrupted_matrix_goes_on_where_it_was(tmp_path: Path) -> None:
    stopped = _run(tmp_path, Bencher(run3={"outcome": "interrupted", "message": "it was interrupted"}))
    assert stopped.was_interrupted
    assert len(read_records(tmp_path / "records.jsonl")) == 3
    again = Bencher()
    result = _run(tmp_path, again)
    assert result.num_skipped == 2
    assert len(again.asked) == 8  # the interrupted one among them
    assert len(result.records) == 10
    assert _run(tmp_path, never := Bencher()).num_skipped == 10
    assert never.asked == []


def test_failures_have_records_and_refusals_cost_no_other_run(tmp_path: Path) -> None:
    class Refusing(Bencher):
        def __call__(self, *arguments: Any, **named: Any) -> Measured:
            measured = super().__call__(*arguments, **named)
            if len(self.asked) == 2:
                raise CannotTellError("it has no such module")
            return measured

    said: list[str] = []
    result = _run(tmp_path, Refusing(run1={"outcome": "failed", "message": "x"}), said)
    assert [one.message for one in result.refused] == ["it has no such module"]
    assert len(result.records) == 9
    assert "    failed: x" in said


def test_without_hardware_a_matrix_ends_at_once(tmp_path: Path) -> None:
    class Gone(Bencher):
        def __call__(self, *arguments: Any, **named: Any) -> Measured:
            super().__call__(*arguments, **named)
            raise NoHardwareError("the card fell off the bus")

    gone = Gone()
    with pytest.raises(NoHardwareError):
        _run(tmp_path, gone)
    assert len(gone.asked) == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('description = "d"\nsource = "s"', "at least one table"),
        ('description = "d"\nsource = "s"\ncolour = 1\n[[runs]]\nmodel = "m"', "colour"),
        ('description = "d"\nsource = "s"\n[[runs]]\nmodel = []', "empty list"),
        ('description = "d"\nsource = "s"\n[[runs]]\nvary = [1]', "list of tables"),
        ('source = "s"\n[[runs]]\nmodel = "m"', "description"),
    ],
)
def test_what_is_no_matrix_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=sentence):
        load_matrix(str(path), profile_dirs())


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("steps = 0", "steps must be"),
        ('timeout = "1"', "timeout must be"),
        ('weights = "none"', "weights must be"),
        ('colour = "red"', "colour"),
    ],
)
def test_a_wrong_setting_of_measuring_is_named(tmp_path: Path, line: str, sentence: str) -> None:
    pytest.importorskip("torch")
    path = tmp_path / "bad.toml"
    path.write_text(f'description = "d"\nsource = "s"\n[[runs]]\nmodel = "Qwen/Qwen2.5-0.5B"\n{line}', encoding="utf-8")
    with pytest.raises(UsageError, match=sentence):
        run_matrix(
            load_matrix(str(path), profile_dirs()),
            Manner(),
            Bench(device="cuda"),
            tmp_path / "r.jsonl",
            profile_dirs=profile_dirs(),
            progress=lambda _: None,
            measure=Bencher(),
        )


@pytest.mark.parametrize("name", ["smoke", "core", "rlt", "allocator"])
def test_every_shipped_matrix_can_be_planned_for_an_h100(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    dirs = profile_dirs()
    matrix = load_matrix(name, dirs)
    bencher = Bencher()
    result = run_matrix(
        matrix,
        Manner(),
        Bench(device="cuda", profile="h100-80gb"),
        tmp_path / "r.jsonl",
        profile_dirs=dirs,
        progress=lambda _: None,
        measure=bencher,
    )
    assert not result.refused
    assert len(result.records) == len(matrix.runs)  # no two are the same run
    for record in result.records:
        assert record.estimate is not None
        peak = max(phase.device_used_bytes for phase in record.estimate.phases)
        assert peak < 80e9, record.run


def test_records_of_one_key_are_told_apart_by_their_time(tmp_path: Path) -> None:
    flat = FlatRun(model="Qwen/Qwen2.5-0.5B", gpu="l4")
    one, two = _record(flat), _record(flat, when="2026-11-22T00:00:00Z")
    for record in (one, two):
        append_record(tmp_path / "a.jsonl", record)
    assert one.run_key == two.run_key
    assert one.id != two.id
    assert [json.loads(line)["hash"] for line in (tmp_path / "a.jsonl").read_text().splitlines()] == [
        one.hash,
        two.hash,
    ]
