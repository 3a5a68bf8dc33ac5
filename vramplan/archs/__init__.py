"""config.json to ModelShape, one file for each model_type, found by name.

To add an architecture, add `<model_type>.py` with `read(config: ConfigReader) -> ModelShape` and its case in the tests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import cast

from vramplan.archs._config import ConfigReader
from vramplan.core.model import ModelShape
from vramplan.errors import UnsupportedArchitectureError, VramplanError

# Configs of several parts, whose language model is read alone: the model_type, and that of its `text_config`.
_WRAPPED = {"gemma3": "gemma3_text"}

# What such a config says once for all its parts.
_INHERITED = ("dtype", "torch_dtype", "quantization_config", "tie_word_embeddings")


def read_model(config: Mapping[str, object], *, architecture: str | None = None) -> ModelShape:
    """The shape of the model that a config.json describes.

    Args:
        config: the parsed config.json.
        architecture: read it as this model_type, whatever the config says (`--as`).

    Raises:
        UnsupportedArchitectureError: its model_type has no reader, or a field is missing or makes no sense.
    """
    named = architecture or config.get("model_type")
    if not isinstance(named, str):
        raise UnsupportedArchitectureError(
            "the config names no `model_type`", hint="name one, such as `--as llama`, or use `vramplan simulate`"
        )
    model_type = _WRAPPED.get(named, named)
    read = _reader(model_type)
    if read is None:
        raise _unknown(named)
    text = config.get("text_config")
    try:
        if isinstance(text, Mapping) and (architecture is not None or named in _WRAPPED):
            shape = read(ConfigReader({**_inherited(config), **text}, model_type))
            return replace(shape, left_out=_other_parts(config))
        return read(ConfigReader(config, model_type))
    except VramplanError:
        raise
    except ValueError as error:  # a check in core/model.py: the sizes do not go together
        raise UnsupportedArchitectureError(str(error), hint="check the config.json") from error


def known_model_types() -> tuple[str, ...]:
    """Every `model_type` that can be read, sorted."""
    files = {path.stem for folder in __path__ for path in Path(folder).glob("[a-z]*.py")}
    return tuple(sorted(files | set(_WRAPPED)))


def _reader(model_type: str) -> Callable[[ConfigReader], ModelShape] | None:
    """The `read` of the file of this name, or None; the name comes from a file that anyone may have written."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", model_type):
        return None
    module = f"{__name__}.{model_type}"
    try:
        return cast("Callable[[ConfigReader], ModelShape]", import_module(module).read)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        return None


def _unknown(model_type: str) -> UnsupportedArchitectureError:
    import difflib  # only on the way to an error

    nearest = difflib.get_close_matches(model_type.lower(), known_model_types(), n=1, cutoff=0.5)
    near = f"; the nearest known one is {nearest[0]!r}" if nearest else ""
    return UnsupportedArchitectureError(
        f"no reader for the model_type {model_type!r}{near}",
        hint=f"`--as {nearest[0] if nearest else 'llama'}` if its layers are the same, or `vramplan simulate`",
    )


def _inherited(config: Mapping[str, object]) -> dict[str, object]:
    return {name: config[name] for name in _INHERITED if name in config}


def _other_parts(config: Mapping[str, object]) -> tuple[str, ...]:
    """The sections that describe other models, such as `vision_config`."""
    ours = ("text_config", "quantization_config", "generation_config")
    return tuple(sorted(name for name in config if name.endswith("_config") and name not in ours))
