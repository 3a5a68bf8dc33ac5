"""Which source answers, and what the user is told when none does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vramplan.catalog import ProfileDirs
from vramplan.catalog.dirs import shipped_profiles
from vramplan.errors import CannotTellError, UsageError
from vramplan.sources import load_model_profile, model_ids, resolve_model

CONFIG = {"model_type": "qwen2"}


def _write(folder: Path, stem: str, content: object) -> ProfileDirs:
    path = folder / "models" / f"{stem}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return ProfileDirs(shipped=folder)


def _profile(model_id: str, **changes: object) -> dict[str, object]:
    return {"id": model_id, "source": "its config.json", "parameters": 5, "config": CONFIG, **changes}


@pytest.mark.parametrize("reference", ["Qwen/Qwen9", "Qwen__Qwen9"])
def test_a_profile_answers_by_either_name(tmp_path: Path, reference: str) -> None:
    found = resolve_model(reference, profiles=_write(tmp_path, "Qwen__Qwen9", _profile("Qwen/Qwen9")))
    assert (found.origin, found.id, found.config, found.notes) == ("profile", "Qwen/Qwen9", CONFIG, ())
    assert (found.headers, found.revision) == (None, None)


def test_a_profile_of_the_users_own_answers_first_and_is_told(tmp_path: Path) -> None:
    _write(tmp_path / "shipped", "Qwen__Qwen9", _profile("Qwen/Qwen9"))
    mine = {"model_type": "qwen2", "hidden_size": 7}
    _write(tmp_path / "mine", "Qwen__Qwen9", _profile("Qwen/Qwen9", config=mine))
    dirs = ProfileDirs(shipped=tmp_path / "shipped", user=(tmp_path / "mine",))
    found = resolve_model("Qwen/Qwen9", profiles=dirs)
    assert found.config == mine
    assert len(found.notes) == 1
    assert str(tmp_path / "mine") in found.notes[0]


def test_a_path_answers_before_a_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dirs = _write(tmp_path / "profiles", "Qwen__Qwen9", _profile("Qwen/Qwen9"))
    (tmp_path / "Qwen" / "Qwen9").mkdir(parents=True)
    (tmp_path / "Qwen" / "Qwen9" / "config.json").write_text('{"model_type": "here"}', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    found = resolve_model("Qwen/Qwen9", profiles=dirs)
    assert (found.origin, found.config) == ("folder", {"model_type": "here"})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id": "Other/Name"}, "describes 'Other/Name'"),
        ({"source": ""}, "are texts"),
        ({"parameters": 0}, "'parameters' is a whole number above zero"),
        ({"parameters": True}, "'parameters' is a whole number above zero"),
        ({"config": [1]}, "'config' is the object"),
        ({"more": 1}, "unknown key 'more'"),
    ],
)
def test_a_profile_with_a_mistake_is_an_error(tmp_path: Path, change: dict[str, object], says: str) -> None:
    dirs = _write(tmp_path, "Qwen__Qwen9", _profile("Qwen/Qwen9", **change))
    with pytest.raises(UsageError, match=says):
        resolve_model("Qwen/Qwen9", profiles=dirs)


@pytest.mark.parametrize("key", ["id", "source", "parameters", "config"])
def test_a_profile_needs_every_key(tmp_path: Path, key: str) -> None:
    content = _profile("Qwen/Qwen9")
    del content[key]
    with pytest.raises(UsageError, match=f"has no '{key}'"):
        resolve_model("Qwen/Qwen9", profiles=_write(tmp_path, "Qwen__Qwen9", content))


def test_every_shipped_model_profile_is_read() -> None:
    dirs = ProfileDirs(shipped=shipped_profiles())
    for model_id in model_ids(dirs):
        profile = load_model_profile(model_id, dirs)
        assert profile is not None
        assert profile.id == model_id
        assert "model_type" in profile.config


def test_an_empty_name_is_not_the_current_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the model's name is empty"):
        resolve_model(" ", profiles=ProfileDirs(shipped=tmp_path))


@pytest.fixture
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.usefixtures("_empty_cache")
@pytest.mark.parametrize(
    ("reference", "nearest"),
    [
        ("Qwen/Qwen2.5-7B-instruct", "Qwen/Qwen2.5-7B-Instruct"),
        ("qwen/qwen2.5-7b", "Qwen/Qwen2.5-7B"),
        ("Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("someone/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
    ],
)
def test_offline_an_unknown_name_gets_the_nearest_profile(tmp_path: Path, reference: str, nearest: str) -> None:
    for model_id in ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B", "meta-llama/Llama-3.1-8B"):
        dirs = _write(tmp_path, model_id.replace("/", "__"), _profile(model_id))
    with pytest.raises(CannotTellError, match="offline was asked for") as caught:
        resolve_model(reference, profiles=dirs, offline=True)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(f"the nearest profile is {nearest};")


@pytest.mark.usefixtures("_empty_cache")
@pytest.mark.parametrize("reference", ["nothing/like-it", "not a name", "a/b/c", "x" * 5000, "a\0b"])
def test_offline_no_profile_is_named_where_none_is_near(tmp_path: Path, reference: str) -> None:
    dirs = _write(tmp_path, "Qwen__Qwen2.5-7B", _profile("Qwen/Qwen2.5-7B"))
    with pytest.raises(CannotTellError) as caught:
        resolve_model(reference, profiles=dirs)  # conftest sets HF_HUB_OFFLINE
    assert "HF_HUB_OFFLINE is set" in caught.value.message
    assert caught.value.hint == "name a config.json, or allow the Hub once"


def test_a_profile_or_a_file_answers_without_a_heavy_module(tmp_path: Path) -> None:
    dirs = _write(tmp_path / "profiles", "Qwen__Qwen9", _profile("Qwen/Qwen9"))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    script = f"""
import sys
from pathlib import Path
from vramplan.catalog import load_gpu, profile_dirs
from vramplan.sources import resolve_model
profiles = profile_dirs([Path({str(dirs.shipped)!r})])
assert resolve_model("Qwen/Qwen9", profiles=profiles).origin == "profile"
assert resolve_model({str(tmp_path)!r}, profiles=profiles).origin == "folder"
assert load_gpu("t4", profiles).name == "t4"
heavy = {{"huggingface_hub", "torch", "transformers", "pandas", "numpy", "yaml", "pydantic", "pynvml", "httpx"}}
print(sorted(heavy & set(sys.modules)))
"""
    environ = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environ)
    assert done.stdout.strip() == "[]"
