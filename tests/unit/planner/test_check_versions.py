"""What depends on TRL's version, on the launcher, or on the card; and the choice of rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from vramplan.catalog.dirs import ProfileDirs, shipped_profiles
from vramplan.errors import UsageError
from vramplan.planner.check.registry import RULES, choose, find_rule
from vramplan.planner.check.run import Checked, check_files
from vramplan.runfiles.flat import parse_flat

DIRS = ProfileDirs(shipped=shipped_profiles())
GRPO = "model_name_or_path: Qwen/Qwen2.5-0.5B-Instruct\nmax_completion_length: 64\n"


def check(folder: Path, *texts: str, names: tuple[str, ...] = ("run.yaml",), **over: object) -> Checked:
    for name, text in zip(names, texts, strict=True):
        (folder / name).write_text(text)
    return check_files([folder / name for name in names], over=parse_flat(over, ""), chosen=choose([], []), dirs=DIRS)


def rules(checked: Checked) -> set[str]:
    assert all(file.error is None for file in checked.files)
    return {finding.rule for file in checked.files for finding in file.findings}


@pytest.mark.parametrize(
    ("version", "rows", "steps", "num_gpus", "generations", "refused"),
    [
        ("0.14.0", 3, 1, 1, 8, False),  # a row is a prompt, with all its completions
        ("0.15.2", 3, 1, 1, 8, True),
        ("0.15.2", 4, 1, 2, 8, False),  # rows × processes
        ("0.15.2", 4, 2, 1, 8, True),  # accumulation does not count yet
        ("0.17.0", 4, 2, 1, 8, False),  # rows × processes × accumulation
        ("1.16.0", 4, 2, 1, 8, False),
        ("1.16.0", 4, 3, 1, 8, True),
        ("1.16.0", 4, 3, 2, 8, False),
    ],
)
def test_which_rows_hold_whole_groups(
    version: str, rows: int, steps: int, num_gpus: int, generations: int, refused: bool, tmp_path: Path
) -> None:
    text = (
        f"{GRPO}per_device_train_batch_size: {rows}\ngradient_accumulation_steps: {steps}\n"
        f"num_generations: {generations}\n"
    )
    found = check(tmp_path, text, stack={"trl": version}, num_gpus=num_gpus)
    assert ("VP005" in rules(found)) is refused


def test_a_launcher_s_processes_count_for_the_run_beside_it(tmp_path: Path) -> None:
    run = f"{GRPO}per_device_train_batch_size: 2\nnum_generations: 8\n"
    launcher = "distributed_type: MULTI_GPU\nnum_processes: 4\n"
    assert "VP005" in rules(check(tmp_path, run))
    assert "VP005" not in rules(check(tmp_path, run, launcher, names=("run.yaml", "accelerate.yaml")))
    assert "VP005" not in rules(check(tmp_path, launcher, run, names=("accelerate.yaml", "run.yaml")))
    assert "VP005" not in rules(check(tmp_path, run, num_gpus=4))


def test_a_launcher_alone_has_nothing_wrong(tmp_path: Path) -> None:
    checked = check(tmp_path, "distributed_type: MULTI_GPU\nnum_processes: 4\n")
    assert rules(checked) == set()
    assert checked.notes == ()


def test_a_file_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    checked = check(
        tmp_path,
        "a: [1\n",
        f"{GRPO}num_generations: 1\n",
        "train_batch_size: many\nnum_generations: 8\n",
        names=("bad.yaml", "run.yaml", "typed.yaml"),
    )
    bad, run, typed = checked.files
    assert bad.error is not None
    assert bad.findings == ()
    assert {finding.rule for finding in run.findings} == {"VP004", "VP010"}
    assert typed.error is not None
    assert "train_batch_size must be" in typed.error[0]


def test_without_a_card_its_rules_are_named_and_left_out(tmp_path: Path) -> None:
    text = f"{GRPO}use_vllm: true\nvllm_gpu_memory_utilization: 0.999\nper_device_train_batch_size: 4096\n"
    without = check(tmp_path, text)
    assert not rules(without) & {"VP012", "VP029", "VP030", "VP067"}
    (note,) = [note for note in without.notes if "--gpu" in note and "VP067" in note]
    assert "VP030" in note
    with_card = check(tmp_path, text, gpu="rtx-4090")
    assert {"VP030", "VP067"} <= rules(with_card)
    assert not any("VP067" in note for note in with_card.notes)


@pytest.mark.parametrize(
    ("settings", "gpu_mem", "speaks"),
    [
        ("run_name: teacher_85gb\n", "85GiB", True),
        ("run_name: teacher_85gb\n", "85GB", False),
        ("run_name: teacher_80GiB\n", "80GB", True),
        ("run_name: teacher_80GiB\n", "80GiB", False),
        ("run_name: teacher_85gb\n", "24GB", False),  # another card, no mistake of units
        ("run_name: step85gbx\n", "85GiB", False),
    ],
)
def test_a_name_with_the_other_unit(settings: str, gpu_mem: str, speaks: bool, tmp_path: Path) -> None:
    text = f"{GRPO}per_device_train_batch_size: 8\n{settings}"
    assert ("VP066" in rules(check(tmp_path, text, gpu_mem=gpu_mem))) is speaks


@pytest.mark.parametrize(
    ("setting", "version", "refused"),
    [
        ("max_prompt_length: 64", "0.26.2", False),
        ("max_prompt_length: 64", "0.28.0", True),
        ("vllm_max_model_len: 64", "0.15.2", False),
        ("vllm_max_model_len: 64", "1.16.0", True),
        ("vllm_max_model_length: 64", "0.15.2", True),
        ("vllm_max_model_length: 64", "1.16.0", False),
    ],
)
def test_names_come_and_go(setting: str, version: str, refused: bool, tmp_path: Path) -> None:
    checked = check(tmp_path, f"{GRPO}num_generations: 8\n{setting}\n", stack={"trl": version})
    assert ("VP065" in rules(checked)) is refused


def test_choosing_rules() -> None:
    everything = choose([], [])
    assert everything == {rule.id for rule in RULES}
    assert choose(["VP006", "vp04"], []) == {"VP006"} | {one for one in everything if one.startswith("VP04")}
    assert choose([], ["VP0"]) == frozenset()
    assert choose(["VP006"], ["VP006"]) == frozenset()
    for wrong in ("VP9", "E501", ""):
        with pytest.raises(UsageError, match="there is no rule"):
            choose([wrong], [])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_each_rule_explains_itself(rule: object) -> None:
    found = find_rule(str(getattr(rule, "id")).lower())  # noqa: B009
    assert found is rule
    assert found.title
    assert found.why.endswith(".")
    assert found.source
    assert found.wrong != found.right


def test_an_unknown_rule_names_the_nearest() -> None:
    with pytest.raises(UsageError) as raised:
        find_rule("VP0060")
    assert raised.value.hint is not None
    assert raised.value.hint.startswith("the nearest is VP06")


def test_what_the_estimate_refuses_is_found_too(tmp_path: Path) -> None:
    batch = 'model = "Qwen/Qwen2.5-0.5B-Instruct"\nmethod = "sft"\nbatch_size = 12\n'  # rows: the default, 8
    stored = 'model = "openai/gpt-oss-20b"\nmethod = "sft"\ntuning = "full"\n'  # quantised on disk
    for text, rule, key in ((batch, "VP002", "batch_size"), (stored, "VP001", "model")):
        checked = check(tmp_path, text, names=("run.toml",))
        (finding,) = [one for one in checked.files[0].findings if one.rule == rule]
        assert (finding.key, finding.message[:2] != "VP") == (key, True)
