"""A config from a file or a checkpoint folder on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vramplan.errors import UsageError
from vramplan.sources.json_file import read_json_object
from vramplan.sources.safetensors_header import read_folder_headers
from vramplan.sources.source import ModelSource

CONFIG_FILE = "config.json"
_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".gguf"}


def from_path(reference: str, path: Path) -> ModelSource:
    """The config at an existing path.

    Raises:
        UsageError: the file is not a model's config, or the folder has none.
    """
    if path.is_dir():
        return _from_folder(reference, path)
    if path.name == CONFIG_FILE:
        config = read_json_object(path)
        headers, note = read_folder_headers(path.parent)
        return ModelSource(
            reference=reference, id=reference, origin="file", config=config, headers=headers, notes=_notes(note)
        )
    if path.suffix in _WEIGHT_SUFFIXES:
        raise UsageError(f"{path} holds weights, not a config", hint=f"name the folder that holds its {CONFIG_FILE}")
    config = read_json_object(path)
    if "model_type" not in config:
        raise UsageError(f"{path} has no model_type, so it is not a model's config", hint=_hint_for(config))
    return ModelSource(reference=reference, id=reference, origin="file", config=config)


def _from_folder(reference: str, folder: Path) -> ModelSource:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise UsageError(f"the folder {folder} has no {CONFIG_FILE}", hint=_folder_hint(folder))
    config = read_json_object(path)
    headers, note = read_folder_headers(folder)
    return ModelSource(
        reference=reference, id=reference, origin="folder", config=config, headers=headers, notes=_notes(note)
    )


def _notes(note: str | None) -> tuple[str, ...]:
    return () if note is None else (note,)


def _folder_hint(folder: Path) -> str:
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        base = read_json_object(adapter).get("base_model_name_or_path")
        return f"it holds an adapter: name its base model{f', {base}' if isinstance(base, str) else ''}"
    return f"name the folder that holds {CONFIG_FILE}; for a model of this name on the Hub, run from another folder"


def _hint_for(config: Mapping[str, object]) -> str:
    if "base_model_name_or_path" in config:
        return f"it is an adapter's config: name its base model, {config['base_model_name_or_path']}"
    return f"a checkpoint's {CONFIG_FILE} has one"
