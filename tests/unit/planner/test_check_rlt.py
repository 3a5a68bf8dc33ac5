"""The settings of tkristner/RLT and SakanaAI/RLT (training-memory.md §1.1): every defect, and no other word."""

from __future__ import annotations

from pathlib import Path

import pytest

from vramplan.catalog.dirs import ProfileDirs, shipped_profiles
from vramplan.planner.check.registry import choose
from vramplan.planner.check.run import Checked, check_files
from vramplan.runfiles.flat import FlatRun, parse_flat

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "rlt"
DIRS = ProfileDirs(shipped=shipped_profiles())
ON_A_CARD = {"gpu": "h100-80gb"}

# Rule and setting, as §1 and §1.1 name them: asserts of the trainer, what never reaches the model, vLLM's length.
ON_ONE_CARD = {
    "85gb": {
        ("VP001", "model_args.load_in_8bit"),  # refused by transformers, were it to arrive
        ("VP005", "num_generations"),  # 24 does not divide 36
        ("VP006", "vllm_max_model_len"),  # 6144 for 12288
        ("VP010", "model_name_or_path"),  # fp32 weights under bf16 autocast
        ("VP040", "generation_aggregation_steps"),  # 32 % 12
        ("VP041", "backprop_accumulation_steps"),  # 36 // 2 is not 2
        ("VP044", "vllm_max_model_len"),
        ("VP047", "model_args.load_in_8bit"),
        ("VP047", "model_args.torch_dtype"),
        ("VP047", "model_args.attn_implementation"),
        ("VP048", "model_args.device_map"),
        ("VP055", "generation_aggregation_steps"),  # 12 in the run's file, 3 in the trainer's
    },
    "96gb": {
        ("VP006", "vllm_max_model_len"),
        ("VP010", "model_name_or_path"),
        ("VP041", "backprop_accumulation_steps"),
        ("VP044", "vllm_max_model_len"),
        ("VP055", "generation_aggregation_steps"),
    },
    "mono": {
        ("VP010", "model_name_or_path"),
        ("VP041", "backprop_accumulation_steps"),
        ("VP047", "student_model"),  # GRPOTrainer has no student
        ("VP055", "generation_aggregation_steps"),
    },
}
# With the card known as well: 229.5 GB static before logits (§1.3) for 85 GB.
ON_THE_CARD = {
    "85gb": {
        ("VP030", "vllm_gpu_memory_utilization"),
        ("VP057", "offload_untrained_models"),
        ("VP067", "per_device_train_batch_size"),
    },
    "96gb": {
        ("VP030", "vllm_gpu_memory_utilization"),
        ("VP057", "offload_untrained_models"),
        ("VP067", "per_device_train_batch_size"),
    },
    "mono": {
        ("VP030", "vllm_gpu_memory_utilization"),
        ("VP067", "per_device_train_batch_size"),
    },
}
NAMES = {"85gb": "teacher_rlt_mono_85gb", "96gb": "teacher_rlt_mono_96gb", "mono": "teacher_rlt_mono"}


def check(*paths: Path, **over: object) -> Checked:
    return check_files(paths, over=parse_flat(over, ""), chosen=choose([], []), dirs=DIRS)


def run_file(name: str) -> Path:
    return FIXTURES / name / "cfgs" / "run_cfg" / f"{NAMES[name]}.yaml"


def pairs(checked: Checked) -> set[tuple[str, str]]:
    assert all(file.error is None for file in checked.files)
    return {(finding.rule, finding.key) for file in checked.files for finding in file.findings}


@pytest.mark.parametrize("name", ON_ONE_CARD)
def test_every_defect_is_found_and_nothing_else(name: str) -> None:
    assert pairs(check(run_file(name))) == ON_ONE_CARD[name]


@pytest.mark.parametrize("name", ON_THE_CARD)
def test_and_what_the_card_adds(name: str) -> None:
    assert pairs(check(run_file(name), **ON_A_CARD)) == ON_ONE_CARD[name] | ON_THE_CARD[name]


def test_the_documented_command_cannot_be_composed() -> None:
    (file,) = check(FIXTURES / "85gb" / "README.md").files
    (finding,) = file.findings
    assert (finding.rule, finding.line) == ("VP058", 6)
    assert "Could not override 'model_cfg@_global_'" in finding.message


def test_trainers_own_words_and_numbers_are_in_the_messages() -> None:
    (file,) = check(run_file("85gb")).files
    said = {finding.rule: finding.message for finding in file.findings}
    assert "32 accumulation steps are no multiple of 12" in said["VP040"]
    assert "gradient_accumulation % generation_aggregation_steps == 0" in said["VP040"]
    assert "// 2 is 18, not 2" in said["VP041"]
    assert "24 completions a prompt do not divide the 36 rows" in said["VP005"]
    assert "12288" in said["VP006"]
    assert "30.46 GB" in said["VP010"]  # 7,615,616,512 × 4 bytes


UPSTREAM = FIXTURES / "upstream"
ZERO3 = UPSTREAM / "accelerate_configs" / "deepspeed_zero3.yaml"
TEACHER = UPSTREAM / "cfgs" / "run_cfg" / "teacher_rlt.yaml"


@pytest.mark.parametrize(
    ("paths", "over"),
    [
        ((TEACHER, ZERO3), {}),
        ((ZERO3, TEACHER), {}),
        ((TEACHER, ZERO3), ON_A_CARD),
        ((TEACHER,), {"num_gpus": 4, "sharding": "zero3"}),
        ((TEACHER,), {"num_gpus": 4, "sharding": "zero3", **ON_A_CARD}),
        ((UPSTREAM / "launch.sh",), ON_A_CARD),
    ],
)
def test_nothing_is_found_in_upstream_on_four_and_four_gpus(paths: tuple[Path, ...], over: dict[str, object]) -> None:
    assert pairs(check(*paths, **over)) == set()


@pytest.mark.parametrize(("num_gpus", "rules"), [(4, set()), (8, {"VP040"}), (3, {"VP002"})])
def test_the_number_of_gpus_decides_what_divides(num_gpus: int, rules: set[str]) -> None:
    found = pairs(check(TEACHER, num_gpus=num_gpus, sharding="zero3"))
    assert {rule for rule, _ in found} == rules


def test_an_unknown_model_leaves_out_what_needs_it_and_says_so(tmp_path: Path) -> None:
    run = tmp_path / "run.yaml"
    run.write_text(TEACHER.read_text() + "model_name_or_path: results/pre_rl_model\n")
    checked = check(run, **ON_A_CARD)
    assert {rule for rule, _ in pairs(checked)} <= {"VP048", "VP010"}
    assert any("results/pre_rl_model" in note and "VP020" in note for note in checked.notes)
    named = check_files(
        [run],
        over=FlatRun(model="Qwen/Qwen2.5-7B-Instruct", num_gpus=4, sharding="zero3"),
        chosen=choose([], []),
        dirs=DIRS,
    )
    assert not any("VP020" in note for note in named.notes)
