"""`--fix`: the finding is gone from the copy, and nothing else has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from vramplan.catalog.dirs import ProfileDirs, shipped_profiles
from vramplan.planner.check.fix import corrected, fixed_path
from vramplan.planner.check.registry import choose
from vramplan.planner.check.run import CheckedFile, check_files
from vramplan.runfiles.flat import parse_flat

DIRS = ProfileDirs(shipped=shipped_profiles())
MODEL = "model_name_or_path: Qwen/Qwen2.5-0.5B-Instruct\n"
TOML = 'model = "Qwen/Qwen2.5-0.5B-Instruct"\n'
GRPO = MODEL + "num_generations: 8   # a group\nper_device_train_batch_size: 8\n"
RLT = (
    MODEL + "train_batch_size: 64\nper_device_train_batch_size: 2\ngeneration_aggregation_steps: 8\n"
    "num_generations: 8\nmax_prompt_length: 64\nmax_completion_length: 64\nuse_vllm: true\nuse_vllm_server: false\n"
)

# rule: (file, text before, the line in it, the line after)
ONE_LINE = {
    "VP006": ("run.yaml", RLT, "vllm_max_model_len: 100   # tokens", "vllm_max_model_len: 128   # tokens"),
    "VP041": (
        "run.yaml",
        RLT + "backprop_accumulation_micro_batch_size: 2\n",
        "backprop_accumulation_steps:  3",
        "backprop_accumulation_steps:  8",
    ),
    "VP044": ("run.yaml", RLT, '"vllm_max_model_len": 64', '"vllm_max_model_len": 128'),
    "VP046": ("run.yaml", GRPO, "gradient_checkpointing: false # slow", "gradient_checkpointing: true # slow"),
    "VP050": ("run.yaml", GRPO + "beta: 0.0\n", "sync_ref_model: True", "sync_ref_model: false"),
    "VP063": (
        "run.yaml",
        GRPO + "use_vllm: true\n",
        "ds3_gather_for_generation: false",
        "ds3_gather_for_generation: true",
    ),
    "VP064": ("run.yaml", GRPO, "auto_find_batch_size: true", "auto_find_batch_size: false"),
    "VP066": (
        "run.toml",
        'model = "Qwen/Qwen2.5-0.5B-Instruct"\n',
        'gpu_mem = "85GiB" # all',
        'gpu_mem = "85GB" # all',
    ),
    "VP058": (
        "go.sh",
        "#!/bin/bash\n",
        "python train.py --config-path=cfgs/run_cfg --config-name=mine x=1",
        "python train.py run_cfg@_global_=mine x=1",
    ),
    "VP059": (
        "go.sh",
        "#!/bin/bash\n",
        'python train.py "+run_cfg=mine" x=1',
        'python train.py "run_cfg@_global_=mine" x=1',
    ),
}
BEFORE, AFTER = "# first\n\n", "\n# last, without a line break"


def check(*paths: Path) -> tuple[CheckedFile, ...]:
    return check_files(paths, over=parse_flat({}, ""), chosen=choose([], []), dirs=DIRS).files


@pytest.mark.parametrize("rule", ONE_LINE)
def test_one_line_changes_and_the_finding_is_gone(rule: str, tmp_path: Path) -> None:
    name, text, wrong, right = ONE_LINE[rule]
    if rule == "VP046":
        text += "max_prompt_length: 4096\nmax_completion_length: 4096\n"
    head = "" if name == "go.sh" else BEFORE
    path = tmp_path / name
    path.write_text(f"{head}{text}{wrong}\n{AFTER}")
    (before,) = check(path)
    assert rule in {finding.rule for finding in before.findings}
    copy = corrected(before)
    assert copy is not None
    assert copy.path == fixed_path(path) == tmp_path / name.replace(".", ".fixed.")
    assert copy.text == f"{head}{text}{right}\n{AFTER}"
    copy.path.write_text(copy.text)
    (after,) = check(copy.path)
    assert after.error is None
    assert rule not in {finding.rule for finding in after.findings}
    assert path.read_text() == f"{head}{text}{wrong}\n{AFTER}"


def test_json_keeps_its_form(tmp_path: Path) -> None:
    run, launcher = tmp_path / "run.yaml", tmp_path / "ds.json"
    run.write_text(GRPO)
    launcher.write_text('{"zero_optimization": {"stage": 2},\n "train_micro_batch_size_per_gpu": 4,\n "x": 1}\n')
    before = check(run, launcher)
    (finding,) = [one for one in before[0].findings if one.rule == "VP060"]
    assert (finding.file, finding.line) == (launcher, 2)
    copy = corrected(before[1], before[:1])
    assert copy is not None
    assert copy.path == tmp_path / "ds.fixed.json"
    assert copy.text == launcher.read_text().replace("4", '"auto"')
    copy.path.write_text(copy.text)
    after = check(run, copy.path)
    assert "VP060" not in {one.rule for one in after[0].findings}


def test_a_setting_of_another_file_is_set_in_the_run_s_own(tmp_path: Path) -> None:
    tree = {
        "train.yaml": "defaults:\n  - _self_\n  - trainer_cfg@_global_: mine\n  - run_cfg@_global_: default\n",
        "run_cfg/default.yaml": "bf16: true\n",
        "run_cfg/mine.yaml": "defaults:\n  - override /trainer_cfg@_global_: mine\n  - _self_\n\nnum_generations: 8",
        "trainer_cfg/mine.yaml": RLT + "vllm_max_model_len: 100\n",
    }
    for name, text in tree.items():
        path = tmp_path / "cfgs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    run = tmp_path / "cfgs" / "run_cfg" / "mine.yaml"
    (before,) = check(run)
    (finding,) = [one for one in before.findings if one.rule == "VP006"]
    assert finding.file.name == "mine.yaml"
    assert finding.file.parent.name == "trainer_cfg"
    copy = corrected(before)
    assert copy is not None
    added = copy.text.removeprefix(run.read_text() + "\n")
    assert added == "vllm_max_model_len: 128  # VP006: in place of mine.yaml:10\n"
    copy.path.write_text(copy.text)
    (after,) = check(copy.path)
    assert "VP006" not in {one.rule for one in after.findings}
    assert (tmp_path / "cfgs" / "trainer_cfg" / "mine.yaml").read_text() == tree["trainer_cfg/mine.yaml"]


def test_a_command_over_several_lines(tmp_path: Path) -> None:
    path = tmp_path / "go.sh"
    path.write_text("python train.py \\\n  --config-path cfgs/run_cfg \\\n  --config-name mine \\\n  x=1\n")
    (before,) = check(path)
    copy = corrected(before)
    assert copy is not None
    assert "--config" not in copy.text
    assert "run_cfg@_global_=mine" in copy.text
    assert copy.text.count("\n") == 4
    copy.path.write_text(copy.text)
    (after,) = check(copy.path)
    assert after.findings == ()


@pytest.mark.parametrize(
    "text",
    [
        GRPO.replace("num_generations: 8", "num_generations: 7"),  # which of three numbers is wrong?
        GRPO + "load_in_8bit: true\n",  # adapters, or no quantisation?
        GRPO,  # nothing is wrong
    ],
)
def test_nothing_is_written_where_there_is_a_choice(text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    assert corrected(check(path)[0]) is None


def test_an_interpolation_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(RLT + "length: 100\nvllm_max_model_len: ${length}\n")
    (before,) = check(path)
    assert "VP006" in {finding.rule for finding in before.findings}
    assert corrected(before) is None


def test_line_ends_of_windows_stay(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes((GRPO + "auto_find_batch_size: true\nseed: 1\n").replace("\n", "\r\n").encode())
    copy = corrected(check(path)[0])
    assert copy is not None
    assert copy.text.encode() == path.read_bytes().replace(b"size: true", b"size: false")
