"""Run profiles: flat settings with the keys of `estimate --jsonl`, and where they come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from vramplan.catalog import ProfileDirs, load_run
from vramplan.errors import UsageError

RUN = """\
description = "a run"
source = "somewhere"
notes = ["one", "two"]
method = "rlt"
teacher = "Qwen/Qwen2.5-7B-Instruct"
batch_size = 64
lora_target_modules = ["q_proj", "v_proj"]
kbit_fp32_upcast = false
stack = { transformers = "4.48.1", trl = "0.14.0" }
"""


def _dirs(folder: Path, text: str) -> ProfileDirs:
    (folder / "runs").mkdir(exist_ok=True)
    (folder / "runs" / "mine.toml").write_text(text, encoding="utf-8")
    return ProfileDirs(shipped=folder)


def test_settings_keep_their_keys_and_types(tmp_path: Path) -> None:
    run = load_run("mine", _dirs(tmp_path, RUN))
    assert run.settings == {
        "method": "rlt",
        "teacher": "Qwen/Qwen2.5-7B-Instruct",
        "batch_size": 64,
        "lora_target_modules": ["q_proj", "v_proj"],
        "kbit_fp32_upcast": False,
        "stack": {"transformers": "4.48.1", "trl": "0.14.0"},
    }
    assert (run.description, run.source, run.notes) == ("a run", "somewhere", ("one", "two"))
    assert run.file.path == tmp_path / "runs" / "mine.toml"


def test_a_run_is_read_from_a_path(tmp_path: Path) -> None:
    dirs = _dirs(tmp_path, RUN.replace('notes = ["one", "two"]', 'notes = "one"'))
    path = tmp_path / "runs" / "mine.toml"
    run = load_run(str(path), ProfileDirs(shipped=tmp_path / "nothing"))
    assert run.settings == load_run("mine", dirs).settings
    assert run.notes == ("one",)
    with pytest.raises(UsageError, match="there is no file"):
        load_run(str(tmp_path / "other.toml"), dirs)


@pytest.mark.parametrize("key", ["description", "source"])
def test_a_run_says_what_it_is_and_where_it_comes_from(tmp_path: Path, key: str) -> None:
    text = "\n".join(line for line in RUN.splitlines() if not line.startswith(key))
    with pytest.raises(UsageError, match=f"{key} is missing"):
        load_run("mine", _dirs(tmp_path, text))


def test_settings_are_flat(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="line 10: teacher_loading is a table"):
        load_run("mine", _dirs(tmp_path, RUN + "[teacher_loading]\nquantization = 'nf4'\n"))


def test_every_shipped_run_is_read() -> None:
    from vramplan.catalog.dirs import shipped_profiles

    dirs = ProfileDirs(shipped=shipped_profiles())
    for name in dirs.names("runs"):
        run = load_run(name, dirs)
        assert run.settings, name
