"""`run = ` of a matrix: every kind of file that `--run` takes, from the matrix's own folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from vramplan.catalog.dirs import ProfileDirs, profile_dirs
from vramplan.catalog.matrices import load_matrix
from vramplan.cli._answer import with_profile
from vramplan.errors import UsageError
from vramplan.planner.answer import answer
from vramplan.planner.bench import Bench
from vramplan.planner.matrix import MatrixResult, run_matrix
from vramplan.planner.measure_plan import Manner
from vramplan.planner.measured import Measured
from vramplan.records.record import Record, RecordAllocator, RecordGpu
from vramplan.runfiles.flat import FlatRun

TOML = """
description = "a run"
source = "this test"
model = "Qwen/Qwen2.5-0.5B"
method = "sft"
tuning = "lora"
max_seq_length = 96
"""
TRL = """
model_name_or_path: Qwen/Qwen2.5-0.5B
use_peft: true
max_length: 96
per_device_train_batch_size: 3
dtype: auto
num_iterations: 2
"""
TRAINING_ARGUMENTS = '{"per_device_train_batch_size": 3, "optim": "adafactor", "bf16": true}'
SCRIPT = "#!/bin/sh\ntrl sft --model_name_or_path Qwen/Qwen2.5-0.5B --use_peft --max_length 96\n"


class Bencher:
    """Measures nothing, and gives a record of what it was asked."""

    def __call__(self, planned: Any, manner: Manner, bench: Bench, *, profile_dirs: ProfileDirs) -> Measured:
        record = Record(
            run=planned.flat.to_dict(),
            how="measure",
            device="cuda",
            weights="random",
            steps=manner.steps,
            versions={},
            gpu=RecordGpu(name="NVIDIA L4"),
            allocator=RecordAllocator(conf="", backend="native"),
            phases=(),
            outcome="done",
            when="2026-11-21T23:42:39Z",
        )
        guess = answer(planned.flat, profile_dirs=profile_dirs)
        return Measured(record=record, report=None, estimate=guess, simulate=None, was_interrupted=False)


def _measured(tmp_path: Path, run: str, more: str = "", said: list[str] | None = None) -> MatrixResult:
    matrix = tmp_path / "matrix.toml"
    matrix.write_text(f'description = "d"\nsource = "s"\n[[runs]]\nrun = "{run}"\n{more}', encoding="utf-8")
    dirs = profile_dirs()
    return run_matrix(
        load_matrix(str(matrix), dirs),
        Manner(),
        Bench(device="cuda", profile="l4"),
        tmp_path / "records.jsonl",
        profile_dirs=dirs,
        progress=(said if said is not None else []).append,
        measure=Bencher(),
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [("one.toml", TOML), ("sft.yaml", TRL), ("train.sh", SCRIPT), ("args.json", TRAINING_ARGUMENTS)],
)
def test_a_file_is_what_run_reads_of_it(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / "runs" / name
    file.parent.mkdir()
    file.write_text(text, encoding="utf-8")
    more = 'gpu = "l4"\nper_device_batch_size = 2\nmodel = "Qwen/Qwen2.5-0.5B"\nmethod = "sft"\n'
    (record,) = _measured(tmp_path, f"runs/{name}", more).records  # not from the working folder
    given = FlatRun(run=str(file), gpu="l4", per_device_batch_size=2, model="Qwen/Qwen2.5-0.5B", method="sft")
    asked = with_profile(given, profile_dirs()).flat.to_dict()
    del asked["run"]  # where the file lies says nothing on another machine
    asked.pop("stack", None)  # measure runs what is installed
    assert record.run == asked


def test_a_folder_is_read_too(tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "config.yaml").write_text(TRL, encoding="utf-8")
    (record,) = _measured(tmp_path, "./tree", 'method = "sft"').records
    assert record.run["per_device_batch_size"] == 3


def test_what_to_know_of_a_file_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "sft.yaml").write_text(TRL, encoding="utf-8")
    said: list[str] = []
    result = _measured(tmp_path, "sft.yaml", 'method = "sft"\nper_device_batch_size = [1, 2]', said)
    assert len(result.records) == 2
    assert sum("num_iterations" in line for line in said) == 1
    assert sum("auto is the checkpoint's own dtype" in line for line in said) == 1


def test_a_profile_keeps_its_name(tmp_path: Path) -> None:
    (record,) = _measured(tmp_path, "rlt-85gb-conservative", 'rollout = "hf"\nattn_implementation = "sdpa"').records
    assert record.run["run"] == "rlt-85gb-conservative"


@pytest.mark.parametrize(
    ("run", "sentence"),
    [("gone.yaml", "there is no file"), ("gone.toml", "there is no file"), ("gone", "no runs profile called 'gone'")],
)
def test_a_run_that_is_not_there_is_said_before_anything_runs(tmp_path: Path, run: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        _measured(tmp_path, run)


def test_a_run_that_names_another_is_refused(tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text(TOML + 'run = "rlt-85gb-conservative"\n', encoding="utf-8")
    with pytest.raises(UsageError, match="cannot name another one"):
        _measured(tmp_path, "two.toml")
