"""Profiles are looked for in the shipped folder and the user's, and a shadowed one is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vramplan.catalog import ProfileDirs, profile_dirs
from vramplan.catalog.dirs import shipped_profiles, suggestion
from vramplan.errors import UsageError


def _profile(folder: Path, kind: str, file_name: str) -> Path:
    path = folder / kind / file_name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("", encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _own_config_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("VRAMPLAN_PROFILES", raising=False)


def test_a_shipped_profile_shadows_nothing(tmp_path: Path) -> None:
    shipped = _profile(tmp_path / "shipped", "gpus", "t4.toml")
    found = ProfileDirs(shipped=tmp_path / "shipped").find("gpus", "t4")
    assert (found.path, found.shadows, found.note) == (shipped, None, None)


def test_the_last_folder_that_has_a_profile_wins_and_names_what_it_hides(tmp_path: Path) -> None:
    shipped = _profile(tmp_path / "shipped", "gpus", "t4.toml")
    _profile(tmp_path / "first", "gpus", "t4.toml")
    last = _profile(tmp_path / "last", "gpus", "t4.toml")
    dirs = ProfileDirs(shipped=tmp_path / "shipped", user=(tmp_path / "first", tmp_path / "last"))
    found = dirs.find("gpus", "t4")
    assert (found.path, found.shadows) == (last, shipped)
    assert found.note is not None
    assert str(last) in found.note
    assert "'t4'" in found.note


def test_a_user_profile_of_a_new_name_shadows_nothing(tmp_path: Path) -> None:
    path = _profile(tmp_path / "user", "gpus", "mine.toml")
    dirs = ProfileDirs(shipped=tmp_path / "shipped", user=(tmp_path / "user",))
    assert dirs.find("gpus", "mine").path == path
    assert dirs.find("gpus", "mine").shadows is None


def test_names_are_sorted_and_each_is_there_once(tmp_path: Path) -> None:
    for folder, name in (("shipped", "b.toml"), ("shipped", "a.toml"), ("user", "b.toml"), ("user", "c.toml")):
        _profile(tmp_path / folder, "runs", name)
    _profile(tmp_path / "user", "runs", "notes.txt")
    dirs = ProfileDirs(shipped=tmp_path / "shipped", user=(tmp_path / "user",))
    assert dirs.names("runs") == ("a", "b", "c")


def test_a_name_cannot_leave_its_folder(tmp_path: Path) -> None:
    _profile(tmp_path / "shipped", "gpus", "t4.toml")
    assert ProfileDirs(shipped=tmp_path / "shipped").lookup("runs", "../gpus/t4") is None


def test_an_unknown_name_gets_the_nearest_one(tmp_path: Path) -> None:
    for name in ("rlt-7b", "sft-8b"):
        _profile(tmp_path, "runs", f"{name}.toml")
    with pytest.raises(UsageError) as caught:
        ProfileDirs(shipped=tmp_path).find("runs", "rlt-7")
    assert caught.value.hint == "the nearest is rlt-7b"


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("a100", ["a100-40gb", "a100-80gb", "t4"], "the nearest are a100-40gb and a100-80gb"),
        ("zzz", ["a", "b"], "the things are a, b"),
        ("zzz", [], "there are no things of this kind"),
    ],
)
def test_suggestions(name: str, known: list[str], expected: str) -> None:
    assert suggestion(name, known, "things") == expected


def test_the_order_is_config_folder_then_variable_then_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, first, second, flag = (tmp_path / name for name in ("config/vramplan", "one", "two", "flag"))
    for folder in (config, first, second, flag):
        folder.mkdir(parents=True)
    monkeypatch.setenv("VRAMPLAN_PROFILES", os.pathsep.join([str(first), str(second)]))
    assert profile_dirs([flag]).user == (config, first, second, flag)


def test_a_config_folder_that_is_not_there_is_no_error() -> None:
    assert profile_dirs().user == ()


@pytest.mark.parametrize("by_variable", [True, False])
def test_a_named_folder_that_is_not_there_is_an_error(tmp_path: Path, by_variable: bool) -> None:
    missing = tmp_path / "missing"
    environ = {"VRAMPLAN_PROFILES": str(missing)} if by_variable else {}
    with pytest.raises(UsageError, match="missing is not there") as caught:
        profile_dirs([] if by_variable else [missing], environ)
    assert caught.value.hint == ("VRAMPLAN_PROFILES names it" if by_variable else "--profile-dir names it")


def test_the_shipped_folder_is_found_from_this_install() -> None:
    assert (shipped_profiles() / "gpus" / "t4.toml").is_file()
