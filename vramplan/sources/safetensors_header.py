"""Headers of safetensors files on disk, without reading a weight.

A file is eight bytes (the header's length, little-endian), the header (JSON: tensor name to dtype, shape and
offsets, and `__metadata__`), then the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vramplan.errors import UsageError
from vramplan.sources.json_file import parse_json_object, read_json_object
from vramplan.sources.source import StoredTensors

# The names transformers loads, and no others (SAFE_WEIGHTS_NAME and SAFE_WEIGHTS_INDEX_NAME, transformers.utils).
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library itself (0.8.0)


def read_folder_headers(folder: Path) -> tuple[StoredTensors | None, str | None]:
    """Headers of the checkpoint in a folder, and a sentence why not where it is incomplete.

    Returns:
        (headers, None), (None, None) where the folder has no safetensors checkpoint, or (None, note) where the index
        names files that are not there.

    Raises:
        UsageError: a file is damaged.
    """
    single, index = folder / SINGLE_FILE, folder / INDEX_FILE
    if single.is_file():
        return StoredTensors(tensors=read_header(single), num_files=1), None
    if not index.is_file():
        return None, None
    files = shard_names(read_json_object(index), str(index))
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        return None, f"{len(missing)} of {len(files)} weight files that {index} names are not there, {missing[0]} first"
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name in files:
        tensors.update(read_header(folder / name))
    return StoredTensors(tensors=tensors, num_files=len(files)), None


def shard_names(index: Mapping[str, Any], where: str) -> list[str]:
    """The files an index names, each once, in order.

    Raises:
        UsageError: it has no `weight_map` of names.
    """
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise UsageError(f"{where} has no weight_map from tensors to files")
    return sorted(set(weight_map.values()))


def read_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype and shape by tensor name.

    Raises:
        UsageError: the file is cut off or is not a safetensors file.
    """
    not_safetensors = UsageError(f"{path} is not a safetensors file, or it was cut off", hint="download it again")
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(_MAX_HEADER_BYTES, path.stat().st_size - 8):
                raise not_safetensors
            header = parse_json_object(file.read(length), f"the header of {path}")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            tensors[name] = (str(entry["dtype"]), tuple(int(size) for size in entry["shape"]))
        except (KeyError, TypeError, ValueError) as error:
            raise not_safetensors from error
    return tensors
