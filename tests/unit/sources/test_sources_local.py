"""Configs from files and checkpoint folders; what is wrong with one is told with its file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vramplan.catalog import ProfileDirs
from vramplan.errors import UsageError
from vramplan.sources import ModelSource, resolve_model, stored_dtype_label

CONFIG = {"model_type": "llama", "hidden_size": 64}


def _resolve(path: Path) -> ModelSource:
    return resolve_model(str(path), profiles=ProfileDirs(shipped=path / "no profiles"), offline=True)


def _write_safetensors(path: Path, tensors: dict[str, tuple[str, list[int]]]) -> None:
    header = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]} for name, (dtype, shape) in tensors.items()
    }
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)


def _checkpoint(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return folder


def test_any_json_with_a_model_type_is_a_config(tmp_path: Path) -> None:
    path = tmp_path / "my model.json"
    path.write_text(json.dumps(CONFIG), encoding="utf-8")
    found = _resolve(path)
    assert (found.origin, found.id, found.config, found.headers) == ("file", str(path), CONFIG, None)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(CONFIG).encode())
    assert _resolve(path).config == CONFIG


def test_a_config_json_may_leave_the_architecture_to_the_user(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"hidden_size": 64}', encoding="utf-8")
    assert _resolve(tmp_path).config == {"hidden_size": 64}
    (tmp_path / "other.json").write_text('{"hidden_size": 64}', encoding="utf-8")
    with pytest.raises(UsageError, match="has no model_type"):
        _resolve(tmp_path / "other.json")


@pytest.mark.parametrize("reference", ["folder", "config.json"])
def test_a_single_weight_file_gives_its_header(tmp_path: Path, reference: str) -> None:
    folder = _checkpoint(tmp_path / "model")
    _write_safetensors(folder / "model.safetensors", {"a": ("BF16", [3, 4]), "b": ("F32", [5]), "c": ("BF16", [])})
    found = _resolve(folder if reference == "folder" else folder / "config.json")
    assert found.origin == ("folder" if reference == "folder" else "file")
    assert found.headers is not None
    assert found.headers.tensors == {"a": ("BF16", (3, 4)), "b": ("F32", (5,)), "c": ("BF16", ())}
    assert found.headers.num_elements_by_dtype == {"BF16": 13, "F32": 5}
    assert (found.headers.num_elements, found.headers.num_files) == (18, 1)
    assert stored_dtype_label(found.headers) == "bf16"


def _shards(folder: Path, weight_map: dict[str, str]) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")


def test_shards_are_read_by_their_index(tmp_path: Path) -> None:
    folder = _checkpoint(tmp_path)
    _shards(folder, {"a": "one.safetensors", "b": "two.safetensors"})
    _write_safetensors(folder / "one.safetensors", {"a": ("F16", [7])})
    _write_safetensors(folder / "two.safetensors", {"b": ("F16", [8])})
    headers = _resolve(folder).headers
    assert headers is not None
    assert (headers.num_elements_by_dtype, headers.num_files) == ({"F16": 15}, 2)


def test_a_missing_shard_is_told_and_nothing_is_counted(tmp_path: Path) -> None:
    folder = _checkpoint(tmp_path)
    _shards(folder, {"a": "one.safetensors", "b": "two.safetensors"})
    _write_safetensors(folder / "one.safetensors", {"a": ("F16", [7])})
    found = _resolve(folder)
    assert found.headers is None
    assert len(found.notes) == 1
    assert "1 of 2 weight files" in found.notes[0]
    assert "two.safetensors" in found.notes[0]


@pytest.mark.parametrize("content", [b"", b"1234567", b"\xff" * 64, (10**6).to_bytes(8, "little") + b"{}"])
def test_a_damaged_weight_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    folder = _checkpoint(tmp_path)
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(UsageError, match=r"model\.safetensors is not a safetensors file"):
        _resolve(folder)


@pytest.mark.parametrize("entry", [[1], {"dtype": "BF16"}, {"dtype": "BF16", "shape": None}, "BF16"])
def test_a_header_without_shapes_is_an_error(tmp_path: Path, entry: object) -> None:
    folder = _checkpoint(tmp_path)
    text = json.dumps({"a": entry}).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(UsageError, match="is not a safetensors file"):
        _resolve(folder)


def test_an_index_without_a_map_is_an_error(tmp_path: Path) -> None:
    folder = _checkpoint(tmp_path)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": ["a"]}', encoding="utf-8")
    with pytest.raises(UsageError, match="has no weight_map"):
        _resolve(folder)


def test_headers_are_those_that_the_library_reads(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    library = pytest.importorskip("safetensors")
    from safetensors.numpy import save_file

    folder = _checkpoint(tmp_path)
    tensors = {
        "x.weight": numpy.zeros((6, 2), "float16"),
        "y": numpy.zeros((3,), "float32"),
        "z": numpy.zeros(4, "int8"),
    }
    save_file(tensors, folder / "model.safetensors")
    headers = _resolve(folder).headers
    assert headers is not None
    with library.safe_open(folder / "model.safetensors", framework="numpy") as file:
        expected = {
            name: (file.get_slice(name).get_dtype(), tuple(file.get_slice(name).get_shape())) for name in tensors
        }
    assert headers.tensors == expected


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        (b"", 1, "the file is empty"),
        (b"  \n \n", 1, "the file is empty"),
        (b'{\n "a": 1,\n "b": }\n', 3, "expecting value"),
        (b'{"a": 1', 1, "column"),
        (b"[1, 2]", 1, "not a list"),
        (b"null", 1, "not null"),
        (b"3", 1, "not a number"),
        (b'{"a":\n\n"\xff\xfe"}', 3, "not UTF-8 text"),
        (b'{"a": ' + b"9" * 5000 + b"}", 1, "digits"),
        (b"[" * 200_000, 1, "recursion"),
    ],
)
@pytest.mark.parametrize("by_folder", [True, False])
def test_a_broken_config_is_told_with_its_line(
    tmp_path: Path, content: bytes, line: int, says: str, by_folder: bool
) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        _resolve(tmp_path if by_folder else path)
    assert f"config.json, line {line}: " in caught.value.message
    assert says in caught.value.message


def test_a_folder_without_a_config_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no config\.json"):
        _resolve(tmp_path)


def test_an_adapter_folder_names_its_base_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "Qwen/Qwen3-4B"}', encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        _resolve(tmp_path)
    assert caught.value.hint == "it holds an adapter: name its base model, Qwen/Qwen3-4B"
    with pytest.raises(UsageError) as caught:
        _resolve(tmp_path / "adapter_config.json")
    assert caught.value.hint == "it is an adapter's config: name its base model, Qwen/Qwen3-4B"


@pytest.mark.parametrize("name", ["model.safetensors", "model.gguf", "pytorch_model.bin"])
def test_a_weight_file_is_not_a_config(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"GGUF\x00")
    with pytest.raises(UsageError, match="holds weights, not a config"):
        _resolve(tmp_path / name)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "dump.json"
    with path.open("wb") as file:
        file.truncate(2**31)  # sparse: two gigabytes of zeros that take no space
    with pytest.raises(UsageError, match="too large to be a config"):
        _resolve(path)


@pytest.mark.parametrize(
    "reference", ["./nothing", "/no/such/folder", "~/none-such-here", "there-is-none.json", "a/b/"]
)
def test_a_path_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="there is no file or folder"):
        resolve_model(reference, profiles=ProfileDirs(shipped=tmp_path))
