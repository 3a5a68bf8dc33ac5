"""Whatever a file says, the answer is findings or one sentence, never a traceback."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vramplan.catalog.dirs import ProfileDirs, shipped_profiles
from vramplan.output.check_json import check_document
from vramplan.output.check_report import render_findings
from vramplan.planner.check.fix import corrected
from vramplan.planner.check.registry import RULES, choose
from vramplan.planner.check.run import check_files
from vramplan.runfiles.flat import parse_flat

DIRS = ProfileDirs(shipped=shipped_profiles())
IDS = {rule.id for rule in RULES}

NUMBERS = st.sampled_from([1, 2, 3, 8, 12, 24, 64, 6144, 12288])
ODD = st.sampled_from([None, "", "many", -1, 0, 1.5, True, [1], {"a": 1}, "${x}", "???", "85GiB", 10**30])
COUNTS = st.one_of(NUMBERS, NUMBERS, NUMBERS, ODD)
SWITCHES = st.one_of(st.booleans(), st.booleans(), ODD)
COUNT_KEYS = (
    "train_batch_size",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "generation_aggregation_steps",
    "num_generations",
    "max_prompt_length",
    "max_completion_length",
    "max_length",
    "vllm_max_model_len",
    "backprop_accumulation_steps",
    "backprop_accumulation_micro_batch_size",
    "generation_batch_size",
    "steps_per_generation",
    "beta",
    "lora_r",
    "num_processes",
    "max_num_batched_tokens",
    "gpu_memory",
    "run_name",
)
SWITCH_KEYS = (
    "bf16",
    "fp16",
    "use_vllm",
    "use_vllm_server",
    "use_peft",
    "load_in_8bit",
    "load_in_4bit",
    "sync_ref_model",
    "offload_untrained_models",
    "gradient_checkpointing",
    "auto_find_batch_size",
    "ds3_gather_for_generation",
    "enable_chunked_prefill",
)
FILES = st.fixed_dictionaries(
    {"model_name_or_path": st.sampled_from(["Qwen/Qwen2.5-0.5B-Instruct", "nobody/nothing", None, 3])},
    optional=dict.fromkeys(COUNT_KEYS, COUNTS)
    | dict.fromkeys(SWITCH_KEYS, SWITCHES)
    | {"model_args": st.dictionaries(st.sampled_from(["load_in_8bit", "device_map", "use_peft"]), SWITCHES)},
)
OVER = st.sampled_from([{}, {"num_gpus": 4}, {"gpu": "h100-80gb"}, {"gpu_mem": 24, "sharding": "zero3", "num_gpus": 2}])


@settings(max_examples=60, deadline=None)
@given(first=FILES, second=FILES, over=OVER)
def test_any_file_gets_an_answer(first: dict[str, object], second: dict[str, object], over: dict[str, object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / "a.yaml", Path(folder) / "b.json"]
        paths[0].write_text(yaml.safe_dump(first, sort_keys=False))
        paths[1].write_text(json.dumps(second))
        checked = check_files(paths, over=parse_flat(over, ""), chosen=choose([], []), dirs=DIRS)
        document = check_document(checked.files)
        assert json.loads(json.dumps(document)) == document
        assert document["summary"]["findings"] == sum(len(file["findings"]) for file in document["files"])
        text = render_findings(checked.files)
        assert len(text.splitlines()) == document["summary"]["findings"] + 1
        for file in checked.files:
            assert {finding.rule for finding in file.findings} <= IDS
            assert file.error is None or not file.findings
            copy = corrected(file)
            if copy is not None:
                assert copy.text != file.path.read_text()


def test_findings_keep_one_line_and_one_order(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "num_generations: 1\nauto_find_batch_size: true\nfp16: true\nbf16: true\nmax_completion_length: 8\n"
    )
    first, second = (
        check_files([path], over=parse_flat({}, ""), chosen=choose([], []), dirs=DIRS).files for _ in range(2)
    )
    assert first == second
    lines = [finding.line for finding in first[0].findings]
    assert lines == sorted(lines, key=lambda line: line or 0)
    assert [finding.rule for finding in first[0].findings] == ["VP004", "VP064", "VP052"]
