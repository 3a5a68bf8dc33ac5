"""Commands in scripts and documents that Hydra 1.3.8 composes, or does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from vramplan.planner.check.finding import CheckFinding
from vramplan.planner.check.scripts import check_script, commands, is_script

PLAIN = "x: 1\n"
OVERRIDING = "defaults:\n  - override /model_cfg@_global_: b\n  - _self_\nx: 2\n"
LISTING = "defaults:\n  - model_cfg@_global_: a\n  - override /model_cfg@_global_: b\n  - _self_\nx: 2\n"


def look(folder: Path, text: str, name: str = "go.sh") -> list[CheckFinding]:
    path = folder / name
    path.write_text(text)
    return list(check_script(path, text))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    run = tmp_path / "cfgs" / "run_cfg"
    run.mkdir(parents=True)
    (run / "mine.yaml").write_text(OVERRIDING)
    (run / "plain.yaml").write_text(PLAIN)
    (run / "listing.yaml").write_text(LISTING)
    (tmp_path / "cfgs" / "train.yaml").write_text("defaults:\n  - run_cfg@_global_: plain\n")
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        "python train.py --config-path=cfgs/run_cfg --config-name=mine",
        "python train.py --config-path cfgs/run_cfg --config-name mine x=1",
        "python train.py -cp cfgs/run_cfg -cn mine",
        "python train.py --config-name=run_cfg/mine",
        "accelerate launch --num_processes 1 train.py --config-path=cfgs/run_cfg --config-name=mine.yaml",
        "python \\\n  train.py --config-path=cfgs/run_cfg \\\n  --config-name=mine",
    ],
)
def test_a_run_file_is_no_primary_config(tree: Path, command: str) -> None:
    (finding,) = look(tree, f"cd rlt\n{command}\n")
    assert (finding.rule, finding.line, finding.key) == ("VP058", 2, "--config-name")
    assert finding.fixed == "run_cfg@_global_=mine"


@pytest.mark.parametrize(
    "command",
    [
        "python train.py",
        "python train.py run_cfg@_global_=mine",
        "python train.py --config-name=train",
        "python train.py --config-path=cfgs/run_cfg --config-name=plain",  # it overrides nothing
        "python train.py --config-path=cfgs/run_cfg --config-name=listing",  # it lists what it overrides
        "# python train.py --config-path=cfgs/run_cfg --config-name=mine",
        "python other.py --config-path=cfgs/run_cfg --config-name=mine",
        "python train.py +trainer_args.optim=adamw_8bit",
        "python train.py --config-path=elsewhere --config-name=mine",  # nothing is known of that folder
    ],
)
def test_forms_that_compose_are_not_named(tree: Path, command: str) -> None:
    assert look(tree, f"{command}\n") == []


def test_a_config_that_is_not_there(tree: Path) -> None:
    (finding,) = look(tree, "python train.py --config-path=cfgs/run_cfg --config-name=mine_aggressive\n")
    assert finding.rule == "VP058"
    assert "there is no cfgs/run_cfg/mine_aggressive.yaml" in finding.message
    assert "mine" in finding.hint
    assert finding.fixed is None


def test_the_folder_s_name_is_enough_without_the_tree(tmp_path: Path) -> None:
    (finding,) = look(tmp_path, "python train.py --config-path=cfgs/run_cfg --config-name=mine\n")
    assert finding.rule == "VP058"


def test_an_appended_group_in_an_array_of_bash(tree: Path) -> None:
    text = '#!/bin/bash\nPARAMS=(\n    "+run_cfg=mine"\n    "+model_args.use_peft=true"\n)\ntrain.py "${PARAMS[@]}"\n'
    (finding,) = look(tree, text)
    assert (finding.rule, finding.line, finding.fixed) == ("VP059", 3, "run_cfg@_global_=mine")


def test_a_document_s_commands_are_read_where_they_stand(tree: Path) -> None:
    text = "# Title\n\n```bash\npython train.py --config-path=cfgs/run_cfg --config-name=mine\n```\n"
    (finding,) = look(tree, text, "README.md")
    assert finding.line == 4
    assert look(tree, "nothing of interest\n", "README.md") == []


def test_continued_lines_are_one_command() -> None:
    found = list(commands("a \\\n  b\nc\\"))
    assert [(one.line, one.text.split()) for one in found] == [(1, ["a", "b"]), (3, ["c"])]


def test_which_files_are_scripts() -> None:
    assert [name for name in ("a.sh", "b.MD", "c.yaml", "d.txt", "e") if is_script(Path(name))] == [
        "a.sh",
        "b.MD",
        "d.txt",
    ]
