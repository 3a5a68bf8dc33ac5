"""`vramplan measure`: real processes on a CPU that counts as a card does, their records, and every way to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agreement_models import TINY_LLAMA

from vramplan.planner import bench
from vramplan.planner.bench import TEST_DEVICE
from vramplan.program import supervise
from vramplan.records.store import read_records

TINY = {**TINY_LLAMA, "tie_word_embeddings": False}
TRAIN = ("--method", "sft", "--tuning", "lora", "--max-seq-length", "32", "--per-device-batch-size", "2")
STUB = """
import json, sys, time
out = open(sys.argv[2], "a", buffering=1)
def tell(**event): out.write(json.dumps(event) + "\\n")
tell(event="context", time=time.monotonic(), settled=time.monotonic(), gpu={"name": "cpu", "backend": "cpu"})
numbers = dict.fromkeys(["allocated_bytes", "reserved_bytes", "end_allocated_bytes", "end_reserved_bytes"], 1000000)
numbers.update(free_bytes=None, num_alloc_retries=0, num_ooms=0)
for phase in ("load", "prefill"):
    now = time.monotonic()
    tell(event="mark", phase=phase, time=now)
    tell(event="phase", phase=phase, begin=now, end=now, settled=now, **numbers)
"""
DONE = STUB + "tell(event='end', outcome='done')"
HANG = STUB + "tell(event='mark', phase='decode', time=0)\ntime.sleep(60)"
CRASH = STUB + "sys.exit('a library fell over')"
REFUSE = STUB + "tell(event='end', outcome='refused', message='torch reaches no GPU', hint='none', exit_code=5)"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    pytest.importorskip("torch")
    pytest.importorskip("bitsandbytes")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TINY), encoding="utf-8")
    monkeypatch.setenv(TEST_DEVICE, "cpu")
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    return str(folder)


def _stub(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(supervise, "COMMAND", (sys.executable, "-c", code))


def test_a_real_run_gives_a_report_and_a_record(vramplan: Callable[..., Any], model: str, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    said = vramplan("measure", model, *TRAIN, "--json", "--output", str(path))
    assert said.code == 0, said.err
    report = json.loads(said.out)
    estimate = json.loads(vramplan("estimate", model, *TRAIN, "--json").out)
    assert report.keys() == estimate.keys()
    assert report["how"] == "measure"
    assert [phase["name"] for phase in report["phases"]] == [phase["name"] for phase in estimate["phases"]]
    (record,) = read_records(path)
    assert record.id in said.err
    assert (record.outcome, record.weights, record.steps, record.device) == ("done", "random", 2, "cpu")
    assert [phase.allocated_bytes for phase in record.phases] == [one["allocated_bytes"] for one in report["phases"]]
    assert record.estimate is not None
    assert record.simulate is not None
    assert [one.allocated_bytes for one in record.estimate.phases] == [
        one["allocated_bytes"] for one in estimate["phases"]
    ]
    assert record.run["model"] == model
    assert record.versions["torch"] is not None
    assert record.after_empty_cache is not None
    load = record.phase("load")
    assert load is not None
    # Weights are weights on any device: the simulation of a card loads as many bytes, but for a few buffers.
    simulated = next(one for one in record.simulate.phases if one.name == "load")
    assert load.allocated_bytes == pytest.approx(simulated.allocated_bytes, rel=0.02)


def test_a_real_out_of_memory_is_a_result_with_a_snapshot(
    vramplan: Callable[..., Any], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TEST_DEVICE, "cpu:3145728")
    path = tmp_path / "new.jsonl"
    said = vramplan("measure", model, *TRAIN, "--max-seq-length", "256", "--no-simulate", "--output", str(path))
    assert said.code == 3, said.err
    assert "out of memory in train" in said.out
    (record,) = read_records(path)
    assert record.out_of_memory is not None
    assert record.out_of_memory.phase == record.stopped_in == "train"
    assert [phase.name for phase in record.phases] == ["load"]
    assert record.simulate is None
    snapshot = tmp_path / str(record.out_of_memory.snapshot)
    replayed = json.loads(vramplan("replay", str(snapshot), "--json").out)
    assert replayed["replays"]


def test_a_real_process_that_is_killed_leaves_its_phases(model: str, tmp_path: Path) -> None:
    path = tmp_path / "killed.jsonl"
    # The measuring process is found by its results, and killed as the kernel would when memory runs out.
    code = (
        "import sys, threading, time, os, signal, pathlib\n"
        "from vramplan.program import supervise\n"
        "start = supervise.ChildRun.__init__\n"
        "def begin(self, *a, **k):\n"
        "    start(self, *a, **k)\n"
        "    def kill():\n"
        '        wanted = \'"phase": "optimizer", "begin"\'\n'
        "        while not self.results.exists() or wanted not in self.results.read_text():\n"
        "            time.sleep(0.05)\n"
        "        os.kill(self.pid, signal.SIGKILL)\n"
        "    threading.Thread(target=kill, daemon=True).start()\n"
        "supervise.ChildRun.__init__ = begin\n"
        "from vramplan.cli.app import main\n"
        "main()\n"
    )
    arguments = ["measure", model, *TRAIN, "--steps", "1000000", "--no-simulate", "--output", str(path)]
    ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=240)
    assert ended.returncode == 1, ended.stderr
    assert "killed" in ended.stderr
    (record,) = read_records(path)
    assert record.outcome == "killed"
    assert [phase.name for phase in record.phases] == ["load", "train", "optimizer"]
    assert "signal 9" in str(record.message)


def test_a_hang_ends_at_the_timeout(
    vramplan: Callable[..., Any], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stub(monkeypatch, HANG)
    path = tmp_path / "r.jsonl"
    said = vramplan("measure", model, "--timeout", "5", "--no-simulate", "--output", str(path))
    assert said.code == 1
    assert "timed out in decode: it did not end within 5 s" in said.err
    (record,) = read_records(path)
    assert (record.outcome, record.stopped_in) == ("timed_out", "decode")
    assert [phase.name for phase in record.phases] == ["load", "prefill"]


def test_a_crash_says_what_the_process_said_last(
    vramplan: Callable[..., Any], model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stub(monkeypatch, CRASH)
    said = vramplan("measure", model, "--no-simulate")
    assert said.code == 1
    assert "failed: a library fell over" in said.err
    assert "Traceback" not in said.err


def test_what_the_process_cannot_do_is_an_error_of_its_kind(
    vramplan: Callable[..., Any], model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stub(monkeypatch, REFUSE)
    said = vramplan("measure", model, "--no-simulate")
    assert said.code == 5
    assert said.out == ""
    assert said.err.splitlines()[-2:] == ["error: torch reaches no GPU", "hint: none"]


def test_a_full_disk_costs_the_file_and_not_the_answer(
    vramplan: Callable[..., Any], model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    _stub(monkeypatch, DONE)
    said = vramplan("measure", model, "--no-simulate", "--json", "--output", "/dev/full")
    assert said.code == 2
    assert "/dev/full cannot be written: No space left on device" in said.err
    assert json.loads(said.out)["how"] == "measure"


def test_a_run_of_several_models_may_be_asked_for_by_name(
    vramplan: Callable[..., Any], model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stub(monkeypatch, DONE)
    said = vramplan("measure", "--roles", "--teacher", model, "--student", model, "--method", "rlt", "--no-simulate")
    assert said.code == 0, said.err


@pytest.mark.parametrize("form", ["--csv", "--markdown"])
def test_other_forms_are_those_of_reports(
    vramplan: Callable[..., Any], model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, form: str
) -> None:
    _stub(monkeypatch, DONE)
    page = tmp_path / "page.html"
    said = vramplan("measure", model, "--no-simulate", form, "--html", str(page))
    assert said.code == 0, said.err
    assert "prefill" in said.out
    assert "prefill" in page.read_text(encoding="utf-8")


def _matrix(tmp_path: Path, model: str) -> Path:
    path = tmp_path / "three.toml"
    text = f'description = "d"\nsource = "s"\n[[runs]]\nmodel = "{model}"\nper_device_batch_size = [1, 2, 3]\n'
    path.write_text(text, encoding="utf-8")
    return path


def test_a_matrix_goes_on_after_it_was_killed(
    vramplan: Callable[..., Any], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, matrix = tmp_path / "records.jsonl", _matrix(tmp_path, model)
    flag = tmp_path / "second"
    # The first run ends, the second hangs: then the command itself is killed.
    first_only = DONE.replace("import json", f"import os; first = not os.path.exists({str(flag)!r}); import json", 1)
    first_only = first_only.replace(
        "tell(event='end'", f"open({str(flag)!r}, 'w'); first or time.sleep(60); tell(event='end'"
    )
    code = (
        "import sys\nfrom vramplan.program import supervise\n"
        f"supervise.COMMAND = (sys.executable, '-c', {first_only!r})\n"
        "from vramplan.cli.app import main\nmain()\n"
    )
    arguments = ["measure", "--matrix", str(matrix), "--output", str(path), "--no-simulate"]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    until = time.monotonic() + 60
    while "[2/3]" not in (line := process.stderr.readline()):
        assert time.monotonic() < until
        assert line, "it ended by itself"
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert len(read_records(path)) == 1
    path.write_text(path.read_text() + '{"schema": "vramplan.rec', encoding="utf-8")  # as a kill in mid-write leaves it
    _stub(monkeypatch, DONE)
    monkeypatch.setenv("COLUMNS", "200")
    said = vramplan(*arguments)
    assert said.code == 0, said.err
    assert "3 runs, 1 of them measured before, 2 to measure" in said.err
    assert "3 records" in said.err
    assert [record.run["per_device_batch_size"] for record in read_records(path)] == [1, 2, 3]
    assert len(said.out.splitlines()) == 2 + 3
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, vramplan(*arguments).out.splitlines())) <= 80
    again = vramplan(*arguments, "--json")
    assert "0 to measure" in again.err
    assert [json.loads(line)["outcome"] for line in again.out.splitlines()] == ["done"] * 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_ended_command_keeps_what_was_measured(model: str, tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "records.jsonl"
    code = (
        "import sys\nfrom vramplan.program import supervise\n"
        f"supervise.COMMAND = (sys.executable, '-c', {HANG!r})\n"
        "from vramplan.cli.app import main\nmain()\n"
    )
    arguments = ["measure", "--matrix", str(_matrix(tmp_path, model)), "--output", str(path), "--no-simulate"]
    (tmp_path / "own").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path / "own")},
    )
    assert process.stderr is not None
    while "[1/3]" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(2)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert not list((tmp_path / "own").glob("vramplan-measure-*"))
    (record,) = read_records(path)
    assert (record.outcome, record.stopped_in) == ("interrupted", "decode")
    assert [phase.name for phase in record.phases] == ["load", "prefill"]


def test_a_matrix_of_edited_records_is_refused(vramplan: Callable[..., Any], model: str, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text('{"schema": "vramplan.record/1", "hash": "0"}\n', encoding="utf-8")
    said = vramplan("measure", "--matrix", str(_matrix(tmp_path, model)), "--output", str(path))
    assert said.code == 2
    assert "line 1: the record was changed after it was written" in said.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--steps", "0"), "--steps must be a whole number of at least 1"),
        (("--steps", "²"), "--steps must be a whole number of at least 1"),
        (("--steps", "9" * 5000), "--steps must be a whole number of at least 1"),
        (("--timeout", "soon"), "--timeout must be a number of seconds"),
        (("--timeout", "nan"), "--timeout must be a number of seconds"),
        (("--roles",), "--roles is of runs with several models"),
        (("--allocator-conf", "colour:red"), "'colour' is not an allocator setting"),
        (("--device", "-1"), "--device must be a whole number of at least 0"),
        (("--weights", "none"), "--weights must be one of checkpoint, random, random-checkpoint"),
        (("--weights", "checkpoint"), "holds no weights"),
        (("--record", "--output", "x.jsonl"), "--record and --output cannot go together"),
        (("--record",), "a CPU's numbers are not kept"),
        (("--stack", "transformers=4.51.1"), "takes no --stack"),
        (("--matrix", "smoke"), "--matrix says itself what runs"),
        (("--output", "/no/such/folder/x.jsonl"), "there is no folder"),
        (("--cublas-workspace-config", "much"), "pairs of size and count"),
        (("--json", "--csv"), "cannot go together"),
    ],
)
def test_wrong_usage_is_said_before_anything_runs(
    vramplan: Callable[..., Any], model: str, arguments: tuple[str, ...], sentence: str
) -> None:
    said = vramplan("measure", model, *arguments)
    assert said.code == 2
    assert sentence in said.err
    assert said.out == ""
    assert "measuring" not in said.err


def test_without_a_gpu_one_sentence_says_what_is_missing(
    vramplan: Callable[..., Any], model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TEST_DEVICE)
    monkeypatch.setattr(bench, "_installed", lambda name: "2.13.0+cpu" if name == "torch" else None)
    said = vramplan("measure", model, "--8bit")
    assert said.code == 5
    assert said.out == ""
    first, second = said.err.splitlines()
    assert first.startswith("error: nothing can be measured: torch 2.13.0+cpu is a CPU build")
    assert second.startswith("hint: `vramplan simulate`")


def test_the_flags_are_those_of_estimate(vramplan: Callable[..., Any]) -> None:
    said = vramplan("measure", "--help")
    assert said.code == 0
    for flag in ("--weights", "--allocator-conf", "--matrix", "--record", "--8bit", "--teacher", "--gpu-mem"):
        assert flag in said.out
