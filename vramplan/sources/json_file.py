"""JSON objects from disk: every message names the file and the line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vramplan.errors import UsageError

# The largest config on the Hub is far below; an index of 100 000 tensors is about 10 MB. Weights are gigabytes.
_MAX_BYTES = 64 * 2**20


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UsageError: the file is empty, binary, far too large, not JSON, or holds something other than an object.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError(
                f"{path} is too large to be a config", hint="name the folder of a checkpoint, not its weights"
            )
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    return parse_json_object(data, str(path))


def parse_json_object(data: bytes, where: str) -> dict[str, Any]:
    """The object in JSON text; `where` begins every message.

    Raises:
        UsageError: as `read_json_object`.
    """
    if not data.strip():
        raise UsageError(f"{where}, line 1: the file is empty")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UsageError(
            f"{where}, line {line}: this is not UTF-8 text", hint="a model's config is JSON text"
        ) from error
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{where}, line {error.lineno}: {_reason(error)}") from error
    except (RecursionError, ValueError) as error:  # nested thousands deep, or a number of thousands of digits
        raise UsageError(f"{where}, line 1: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{where}, line 1: a JSON object is expected here, not {_kind(value)}")
    return value


def _reason(error: json.JSONDecodeError) -> str:
    return f"{error.msg[:1].lower()}{error.msg[1:]} (column {error.colno})"


def _kind(value: object) -> str:
    kinds = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
