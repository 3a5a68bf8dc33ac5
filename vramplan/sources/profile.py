"""A config that vramplan ships, or a user's own: profiles/models/<organisation>__<name>.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from vramplan.core.quick import dataclass
from vramplan.errors import UsageError
from vramplan.sources.json_file import read_json_object

_KEYS = ("id", "source", "parameters", "config")


class ProfileOnDisk(Protocol):
    """What is needed of `catalog.ProfileFile`: this room and that one do not import each other."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def note(self) -> str | None:
        """The sentence to say when it hides a shipped one."""


class ModelProfiles(Protocol):
    """What is needed of `catalog.ProfileDirs`."""

    def lookup(self, kind: str, name: str, /) -> ProfileOnDisk | None:
        """The profile of that name, or None."""

    def names(self, kind: str, /) -> tuple[str, ...]:
        """All names of a kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelProfile:
    """One model profile.

    Args:
        id: the model's name on the Hub.
        source: where the config was read.
        num_parameters: parameters as transformers counts them on the meta device.
        config: the content of its `config.json`.
        note: the sentence to say when the profile hides a shipped one, or None.
    """

    id: str
    source: str
    num_parameters: int
    config: Mapping[str, object]
    note: str | None = None


def load_model_profile(name: str, profiles: ModelProfiles) -> ModelProfile | None:
    """A model profile by Hub name (`Qwen/Qwen2.5-7B`) or file name (`Qwen__Qwen2.5-7B`), or None.

    Raises:
        UsageError: the file has a mistake.
    """
    file = profiles.lookup("models", name.replace("/", "__"))
    if file is None:
        return None
    content = read_json_object(file.path)
    for key in _KEYS:
        if key not in content:
            raise UsageError(f"{file.path} has no {key!r}", hint=f"a model profile has {', '.join(_KEYS)}")
    for key in content:
        if key not in _KEYS:
            raise UsageError(f"{file.path} has the unknown key {key!r}", hint=f"the keys are {', '.join(_KEYS)}")
    model_id, source, parameters, config = (content[key] for key in _KEYS)
    if not isinstance(model_id, str) or not isinstance(source, str) or not source:
        raise UsageError(f"{file.path}: 'id' and 'source' are texts")
    if model_id.replace("/", "__") != file.path.stem:
        raise UsageError(f"{file.path} describes {model_id!r}, which its name does not say")
    if not isinstance(parameters, int) or isinstance(parameters, bool) or parameters <= 0:
        raise UsageError(f"{file.path}: 'parameters' is a whole number above zero")
    if not isinstance(config, dict):
        raise UsageError(f"{file.path}: 'config' is the object that config.json holds")
    return ModelProfile(id=model_id, source=source, num_parameters=parameters, config=config, note=file.note)


def model_ids(profiles: ModelProfiles) -> tuple[str, ...]:
    """Hub names of all model profiles."""
    return tuple(name.replace("__", "/", 1) for name in profiles.names("models"))
