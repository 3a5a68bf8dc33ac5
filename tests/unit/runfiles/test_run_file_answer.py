"""`--run FILE` with another tool's file: the settings lie under the flags, as a profile's do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vramplan.catalog import profile_dirs
from vramplan.cli._answer import answer_run, with_profile
from vramplan.errors import UsageError
from vramplan.runfiles.flat import FlatRun

File = Callable[[str, str], Path]
YAML = """\
model_name_or_path: Qwen/Qwen2.5-0.5B
num_generations: 8
per_device_train_batch_size: 4
dtype: auto
steps_per_generation: 2
"""


def test_a_yaml_file_is_a_run(file: File) -> None:
    path = file("grpo.yaml", YAML)
    asked = with_profile(FlatRun(run=str(path)), profile_dirs([]))
    assert asked.flat == FlatRun(
        run=str(path), model="Qwen/Qwen2.5-0.5B", method="grpo", generations=8, per_device_batch_size=4, dtype="bf16"
    )
    assert asked.title == "grpo.yaml: a run of TRL's"
    assert asked.notes == (
        "dtype: auto is the checkpoint's own dtype, which bf16 stands for here (--dtype says otherwise)",
        "the file also sets steps_per_generation, which this answer does not count",
    )


def test_flags_go_over_the_file(file: File) -> None:
    path = file("grpo.yaml", YAML)
    asked = with_profile(FlatRun(run=str(path), dtype="fp32"), profile_dirs([]))
    assert asked.flat.dtype == "fp32"
    assert asked.title == "grpo.yaml with another dtype"


def test_the_report_is_the_flags_own(file: File) -> None:
    dirs = profile_dirs([])
    from_file = answer_run(with_profile(FlatRun(run=str(file("grpo.yaml", YAML))), dirs), dirs)
    flags = FlatRun(model="Qwen/Qwen2.5-0.5B", method="grpo", generations=8, per_device_batch_size=4, dtype="bf16")
    assert from_file.peak == answer_run(with_profile(flags, dirs), dirs).peak


def test_a_folder_is_its_primary_config(rlt_tree: Callable[..., Path]) -> None:
    cfgs = rlt_tree(run_cfg__default="defaults:\n  - override /trainer_cfg@_global_: teacher_grpo\n")
    asked = with_profile(FlatRun(run=f"{cfgs}/"), profile_dirs([]))
    assert (asked.flat.method, asked.flat.teacher) == ("rlt", "Qwen/Qwen2.5-7B-Instruct")


@pytest.mark.parametrize("name", ["nowhere.yaml", "no/where.json", "x.sh"])
def test_a_file_that_is_not_there(name: str) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        with_profile(FlatRun(run=name), profile_dirs([]))


def test_a_profile_costs_no_reader() -> None:
    code = (
        "import sys\nfrom vramplan.catalog import profile_dirs\nfrom vramplan.cli._answer import with_profile\n"
        "from vramplan.runfiles.flat import FlatRun\n"
        "with_profile(FlatRun(run='rlt-85gb-conservative'), profile_dirs([]))\n"
        "print([name for name in ('yaml', 'vramplan.runfiles.reader') if name in sys.modules])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
