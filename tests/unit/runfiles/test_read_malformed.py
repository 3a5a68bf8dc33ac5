"""Whatever a file holds, the answer is a run or one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vramplan.errors import UsageError
from vramplan.runfiles.command import read_command_line
from vramplan.runfiles.flat import FlatRun
from vramplan.runfiles.reader import read_run_file
from vramplan.runfiles.runfile import RunFile
from vramplan.runfiles.trl_names import KNOWN

File = Callable[[str, str], Path]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.yaml", "", "{path} is empty"),
        ("x.yaml", " \n", "{path} is empty"),
        ("x.yaml", "# only this\n", "{path} says nothing: it holds comments only"),
        ("x.yaml", "- a\n- b\n", "{path} is not a mapping of settings"),
        ("x.yaml", "just words\n", "{path} is not a mapping of settings"),
        ("x.yaml", "a: 1\nb: [1,\nc: 2\n", "{path}:4: not YAML: expected ',' or ']'"),
        ("x.yaml", "a: 1\n b: 2\n", "{path}:2: not YAML: mapping values are not allowed here"),
        ("x.yaml", "a: 1\n---\nb: 2\n", "{path}:2: not YAML: but found another document"),
        ("x.yaml", "? [a]\n: 1\n", "{path}:1: a key must be a text, not ['a']"),
        ("x.yaml", "a: !!python/object:os.system {}\n", "{path}:1: not YAML: could not determine a constructor"),
        ("x.yaml", "x: 1\ny: 2\n", "{path} has no setting of a tool that is known"),
        ("x.yaml", "a: \x00\n", "{path} is not text"),
        ("x.json", "[1]", "{path} is not an object of settings"),
        ("x.json", '{"beta": 1,\n}', "{path}:2: not JSON: "),
        ("x.json", "", "{path} is empty"),
        ("x.toml", "model = \n", "{path}:1: not TOML: invalid value"),
        ("x.toml", 'modle = "m"\n', "{path}: 'modle' is not a setting of a run"),
        ("x.csv", "a,b\n", "{path} is no run file"),
    ],
)
def test_one_sentence_says_what_is_wrong(file: File, name: str, text: str, message: str) -> None:
    path = file(name, text)
    with pytest.raises(UsageError) as error:
        read_run_file(path)
    assert error.value.message.startswith(message.format(path=path))
    assert "\n" not in error.value.message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        read_run_file(tmp_path / "nowhere.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(UsageError, match="is not UTF-8 text"):
        read_run_file(tmp_path / "binary.yaml")
    (tmp_path / "large.yaml").write_bytes(b"a" * 5_000_000)
    with pytest.raises(UsageError, match="is larger than any settings file"):
        read_run_file(tmp_path / "large.yaml")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="is a folder with no run files"):
        read_run_file(tmp_path / "empty")


def test_a_byte_order_mark_is_no_part_of_a_key(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfnum_generations: 4\n")
    assert read_run_file(path).flat.generations == 4


@pytest.mark.parametrize(
    "text",
    [
        "a: &a\n  b: *a\nnum_generations: 2\n",
        "a: &a [*a]\nnum_generations: 2\n",
        "".join("  " * depth + "k:\n" for depth in range(200)) + "  " * 200 + "v: 1\n",
        "k: " + "[" * 5000 + "\n",
        "k: " + "{a: " * 3000 + "\n",
        "a: &a {"
        + ", ".join(f"k{i}: 1" for i in range(50))
        + "}\n"
        + "".join(
            f"{chr(98 + i)}: &{chr(98 + i)} {{" + ", ".join(f"k{j}: *{chr(97 + i)}" for j in range(50)) + "}\n"
            for i in range(4)
        ),
        "num_generations: " + "9" * 5000 + "\n",
        "beta: 1e999\n",
        "beta: .nan\n",
        "a: 0x_\nnum_generations: 0o9\n",
    ],
)
def test_what_would_run_away_ends(file: File, text: str) -> None:
    flat = _flat_or_sentence(read_run_file, file("x.yaml", text))
    assert flat is None or flat.generations == 2


def test_a_long_chain_of_interpolations_ends(file: File) -> None:
    chain = "".join(f"k{i}: ${{k{i + 1}}}\n" for i in range(5000)) + "k5000: 3\nnum_generations: ${k0}\ndefaults: []\n"
    with pytest.raises(UsageError, match="refers to too many other settings"):
        read_run_file(file("x.yaml", chain))


@settings(deadline=None)
@given(st.text(max_size=200), st.sampled_from(["yaml", "json", "toml", "sh"]))
def test_any_text_is_a_run_or_a_sentence(text: str, suffix: str) -> None:
    _reads(text, suffix)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["${a}", "${beta}", "???"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.$@_", max_size=4), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(
    [*sorted(KNOWN)[::4], "defaults", "model_args", "trainer_args", "trainer", "zero_optimization", "distributed_type",
     "deepspeed_config", "student_model", "train_batch_size", "num_generations", "model_init_kwargs", "peft_config"]
)  # fmt: skip


@settings(deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=8))
def test_any_values_are_a_run_or_a_sentence(values: dict[str, object]) -> None:
    _reads(json.dumps(values), "json")
    _reads(json.dumps(values), "yaml")


WORDS = (
    "trl",
    "grpo",
    "sft",
    "python",
    "train.py",
    "--beta",
    "--config",
    "=",
    "x=1",
    "${A",
    "'",
    "\\\n",
    "&&",
    "-m",
    "accelerate",
    "launch",
    "--num_processes",
    "~",
    "launch.sh",
    "2",
)


@settings(deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=9))
def test_any_words_are_a_run_or_a_sentence(words: list[str]) -> None:
    for command in (" ".join(words), words):
        _flat_or_sentence(read_command_line, command)


@pytest.fixture(scope="module", autouse=True)
def _folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    _FOLDER.append(tmp_path_factory.mktemp("malformed"))


_FOLDER: list[Path] = []


def _reads(text: str, suffix: str) -> None:
    path = _FOLDER[-1] / f"x.{suffix}"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    _flat_or_sentence(read_run_file, path)


def _flat_or_sentence(read: Callable[[Any], RunFile], asked: object) -> FlatRun | None:
    """The run, or None after a sentence; anything else that is raised fails the test."""
    try:
        return read(asked).flat
    except UsageError as error:
        sentence = error.message
    assert sentence.strip()
    return None
