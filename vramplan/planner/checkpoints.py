"""Where the weights of a measured run come from: a checkpoint that is on this machine, the Hub, or none."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vramplan.errors import UsageError

_INDEX = "model.safetensors.index.json"
_FILES = ("model.safetensors", _INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What each role is loaded from.

    Args:
        kind: `checkpoint`, `random` or `random-checkpoint`, as in records.
        folders: per role its checkpoint, a folder or a name on the Hub; empty where weights are random.
        note: what its user should know, or None.
    """

    kind: str
    folders: Mapping[str, str]
    note: str | None = None


def choose_weights(asked: str | None, models: Mapping[str, str]) -> Weights:
    """Where weights come from.

    Args:
        asked: `--weights`; None takes checkpoints where every role has one here, else random ones.
        models: per role with weights of its own, the model's name.

    Raises:
        UsageError: a checkpoint is asked for, and the model is a config without one.
    """
    if asked in ("random", "random-checkpoint"):
        return Weights(kind=asked, folders={})
    found = {role: local_checkpoint(model) for role, model in models.items()}
    missing = sorted({models[role] for role, folder in found.items() if folder is None})
    if not missing:
        return Weights(kind="checkpoint", folders={role: folder for role, folder in found.items() if folder})
    if asked is None:
        return Weights(
            kind="random",
            folders={},
            note=f"random weights: no checkpoint of {' or '.join(missing)} is on this machine "
            "(--weights checkpoint downloads it)",
        )
    for model in missing:
        if Path(model).exists():
            raise UsageError(f"{model} holds no weights", hint="measure with --weights random")
    return Weights(kind="checkpoint", folders={role: folder or models[role] for role, folder in found.items()})


def local_checkpoint(model: str) -> str | None:
    """The folder of a model's weights on this machine, the Hub's cache included; None where there are none."""
    path = Path(model).expanduser()
    if path.is_dir():
        return str(path) if any((path / name).is_file() for name in _FILES) else None
    if path.exists() or path.is_absolute():
        return None
    return _cached(model)


def _cached(model: str) -> str | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    def where(name: str) -> Path | None:
        try:
            found = try_to_load_from_cache(model, name)
        except HFValidationError:  # not a name on the Hub
            return None
        return Path(found) if isinstance(found, str) else None

    if where("config.json") is None:
        return None
    single, index = where("model.safetensors"), where(_INDEX)
    if single is not None:
        return str(single.parent)
    if index is not None and all(where(name) is not None for name in _shards(index)):
        return str(index.parent)
    return None


def _shards(index: Path) -> Iterable[str]:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UsageError(f"{index} cannot be read: {error}") from error
    return sorted(set(names))
