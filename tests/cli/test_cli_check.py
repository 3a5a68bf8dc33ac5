"""`vramplan check`: lines, JSON, exit codes, and what goes to which stream."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
RIGHT = f"model_name_or_path: {MODEL}\nnum_generations: 8\nper_device_train_batch_size: 8\ndtype: bfloat16\n"
WRONG = RIGHT.replace("num_generations: 8", "num_generations: 1   # one") + "auto_find_batch_size: true\n"
FINDING = re.compile(r"^(?P<file>[^:]+):(?P<key>[\w.@+-]+) (?P<rule>VP\d{3}) (?P<message>.+)$")
FINDING_KEYS = {"rule", "severity", "file", "line", "key", "message", "hint", "source", "fix"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "right.yaml").write_text(RIGHT)
    (tmp_path / "wrong.yaml").write_text(WRONG)
    (tmp_path / "bad.yaml").write_text("a: [1\n")
    return tmp_path


def test_one_line_a_finding_and_a_count(vramplan: Callable[..., Any], folder: Path) -> None:
    said = vramplan("check", "wrong.yaml")
    assert said.code == 3
    *lines, summary = said.out.splitlines()
    found = [FINDING.match(line) for line in lines]
    assert all(found)
    assert [(one["file"], one["key"], one["rule"]) for one in found if one] == [
        ("wrong.yaml", "num_generations", "VP004"),
        ("wrong.yaml", "auto_find_batch_size", "VP064"),
    ]
    assert summary == "Found 2 problems in 1 file: 2 errors."
    assert "hint: `vramplan check --explain VP004` says what a rule means; --fix mends 1 of these" in said.err
    assert "\x1b" not in said.out


def test_nothing_found(vramplan: Callable[..., Any], folder: Path) -> None:
    said = vramplan("check", "right.yaml")
    assert (said.code, said.out) == (0, "Nothing found in 1 file.\n")
    assert "without --gpu or --gpu-mem these are not looked for" in said.err
    assert "right.yaml: taken for one training process" in said.err
    assert vramplan("check", "right.yaml", "--num-gpus", "1", "--gpu", "h100-80gb").err == ""


def test_an_unreadable_file_is_said_and_hides_nothing(vramplan: Callable[..., Any], folder: Path) -> None:
    said = vramplan("check", "bad.yaml", "wrong.yaml", "nosuch.yaml")
    assert said.code == 2
    assert "wrong.yaml:num_generations VP004" in said.out
    assert "error: bad.yaml" in said.err
    assert "error: there is no file nosuch.yaml" in said.err
    alone = vramplan("check", "bad.yaml")
    assert (alone.code, alone.out) == (2, "")


def test_json_has_the_same_keys_whatever_is_found(vramplan: Callable[..., Any], folder: Path) -> None:
    said = vramplan("check", "--json", "wrong.yaml", "right.yaml", "bad.yaml")
    assert said.code == 2
    document = json.loads(said.out)
    assert set(document) == {"schema", "files", "summary"}
    assert document["schema"] == "vramplan.check/1"
    assert [set(file) for file in document["files"]] == [{"path", "tool", "findings", "error"}] * 3
    wrong, right, bad = document["files"]
    assert (wrong["path"], wrong["tool"], wrong["error"]) == ("wrong.yaml", "trl", None)
    assert all(set(one) == FINDING_KEYS for one in wrong["findings"])
    assert [(one["rule"], one["line"], one["severity"], one["fix"]) for one in wrong["findings"]] == [
        ("VP004", 2, "error", None),
        ("VP064", 5, "error", "false"),
    ]
    assert right["findings"] == []
    assert (bad["tool"], bad["findings"]) == (None, [])
    assert set(bad["error"]) == {"message", "hint"}
    assert document["summary"] == {
        "files": 3,
        "unreadable": 1,
        "findings": 2,
        "errors": 2,
        "warnings": 0,
        "fixable": 1,
    }


def test_hints_stand_under_their_findings(vramplan: Callable[..., Any], folder: Path) -> None:
    lines = vramplan("check", "--hints", "wrong.yaml").out.splitlines()
    assert lines[1] == "  hint: use 2 or more"
    assert len(lines) == 5


@pytest.mark.parametrize(
    ("flags", "rules"),
    [
        (("--select", "VP004"), ["VP004"]),
        (("--select", "VP06"), ["VP064"]),
        (("--ignore", "VP004"), ["VP064"]),
        (("--ignore", "VP004,VP06"), []),
    ],
)
def test_rules_are_chosen_as_in_other_linters(
    vramplan: Callable[..., Any], folder: Path, flags: tuple[str, ...], rules: list[str]
) -> None:
    said = vramplan("check", "wrong.yaml", *flags)
    assert re.findall(r"VP\d{3}", said.out) == rules
    assert said.code == (3 if rules else 0)


def test_explain_a_rule(vramplan: Callable[..., Any]) -> None:
    said = vramplan("check", "--explain", "vp006")
    assert said.code == 0
    assert said.out.startswith("VP006: vLLM's length below prompt + completion (error)\n")
    for part in ("Wrong:", "Right:", "    vllm_max_model_len: 12288", "Source: "):
        assert part in said.out
    assert max(map(len, said.out.splitlines())) <= 80


def test_explain_an_unknown_rule(vramplan: Callable[..., Any]) -> None:
    said = vramplan("check", "--explain", "VP0060")
    assert (said.code, said.out) == (2, "")
    assert "hint: the nearest is VP06" in said.err


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ((), "error: no file is given"),
        (("wrong.yaml", "--select", "E501"), "error: there is no rule 'E501'"),
        (("wrong.yaml", "--fix", "--json"), "error: --fix and --json cannot go together"),
        (("wrong.yaml", "--gpu", "h1000"), "error: there is no GPU profile called 'h1000'"),
        (("wrong.yaml", "--num-gpus", "0"), "error: --num-gpus must be a whole number of at least 1"),
    ],
)
def test_flags_that_are_wrong(vramplan: Callable[..., Any], folder: Path, argv: tuple[str, ...], sentence: str) -> None:
    said = vramplan("check", *argv)
    assert said.code == 2
    assert sentence in said.err
    assert "Traceback" not in said.err


def test_fix_writes_a_copy_beside_and_checks_it_again(vramplan: Callable[..., Any], folder: Path) -> None:
    said = vramplan("check", "--fix", "wrong.yaml", "right.yaml")
    assert said.code == 3
    assert (folder / "wrong.yaml").read_text() == WRONG
    assert (folder / "wrong.fixed.yaml").read_text() == WRONG.replace("size: true", "size: false")
    assert not (folder / "right.fixed.yaml").exists()
    assert "written: wrong.fixed.yaml" in said.err
    assert "note: with the copies 1 of 2 problems are left" in said.err
    assert vramplan("check", "wrong.fixed.yaml", "--select", "VP064").code == 0


def test_fix_writes_over_nothing(vramplan: Callable[..., Any], folder: Path) -> None:
    (folder / "wrong.fixed.yaml").write_text("mine\n")
    said = vramplan("check", "--fix", "wrong.yaml")
    assert said.code == 2
    assert "error: wrong.fixed.yaml is there already" in said.err
    assert "VP004" in said.out
    assert (folder / "wrong.fixed.yaml").read_text() == "mine\n"


def test_fix_where_there_is_nothing_to_mend(vramplan: Callable[..., Any], folder: Path) -> None:
    said = vramplan("check", "--fix", "right.yaml")
    assert said.code == 0
    assert "nothing here can be mended" in said.err
    assert sorted(path.name for path in folder.iterdir()) == ["bad.yaml", "right.yaml", "wrong.yaml"]


def test_a_model_is_named_for_a_local_path(vramplan: Callable[..., Any], folder: Path) -> None:
    (folder / "local.yaml").write_text(RIGHT.replace(MODEL, "results/pre_rl_model"))
    said = vramplan("check", "local.yaml")
    assert said.code == 0
    assert "results/pre_rl_model" in said.err
    assert "--model names the model" in said.err
    assert "--model" not in vramplan("check", "local.yaml", "--model", MODEL).err


def test_versions_come_from_the_flag(vramplan: Callable[..., Any], folder: Path) -> None:
    assert "VP019" in vramplan("check", "right.yaml", "--stack", "trl=1.14.0").out
    assert "VP019" not in vramplan("check", "right.yaml", "--stack", "trl=1.15.0").out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_a_sentence(folder: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "vramplan", "check", "wrong.yaml"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=os.environ | {"PYTHONUTF8": "1"},
        )
    assert done.returncode == 2
    assert "error: the answer cannot be written: No space left on device" in done.stderr


def test_fix_on_a_full_disk_is_a_sentence(
    vramplan: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def full(path: Path, mode: str = "r", **kwargs: Any) -> Any:
        if "w" not in mode:
            return opened(path, mode, **kwargs)
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    said = vramplan("check", "--fix", "wrong.yaml")
    assert said.code == 2
    assert "error: wrong.fixed.yaml cannot be written: No space left on device" in said.err
    assert not (folder / "wrong.fixed.yaml").exists()


def test_colour_on_a_terminal_only(vramplan: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vramplan.cli._terminal.has_colour", lambda: True)
    coloured = vramplan("check", "wrong.yaml").out
    assert "\x1b[31mVP004\x1b[0m" in coloured
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    plain = vramplan("check", "wrong.yaml").out
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain
