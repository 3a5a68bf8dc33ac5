"""Reading a record strictly: every key known, every value of its type, and the hash that of the content."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from vramplan.errors import UsageError
from vramplan.records.record import ABSENT_WITHOUT, SCHEMA, Record, content_hash

_EDITED = "the record was changed after it was written: its hash is not that of its content"
_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def parse_record(value: object, where: str) -> Record:
    """A record from plain values.

    Args:
        value: what `Record.to_json()` gave, read back.
        where: the file and line to name in messages.

    Raises:
        UsageError: it is no record, of another schema, or not as it was written.
    """
    if not isinstance(value, Mapping):
        raise UsageError(f"{where}: not a record, which is a JSON object")
    schema = value.get("schema")
    if schema != SCHEMA:
        raise UsageError(f"{where}: not a record of schema {SCHEMA}, but of {schema!r}")
    content = {key: item for key, item in value.items() if key != "hash"}
    try:
        same = content_hash(content) == value.get("hash")
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error
    if not same:
        raise UsageError(f"{where}: {_EDITED}", hint="measure it again; records are never edited")
    del content["schema"]
    record: Record = _dataclass(Record, content, where)
    return record


def _dataclass(kind: Any, value: object, place: str) -> Any:
    if not isinstance(value, Mapping):
        raise UsageError(f"{place} must be an object, not {value!r}")
    hints = _hints(kind)
    for key in value:
        if key not in hints:
            raise UsageError(f"{place}: {key!r} is not a key of a record", hint="a newer vramplan may have written it")
    missing = [one.name for one in fields(kind) if one.name not in value and one.name not in ABSENT_WITHOUT]
    if missing:
        raise UsageError(f"{place}: {missing[0]} is missing")
    given = {key: _value(hint, value[key], f"{place}: {key}") for key, hint in hints.items() if key in value}
    try:
        return kind(**given)
    except ValueError as error:
        raise UsageError(f"{place}: {error}") from error


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _value(hint: Any, value: object, place: str) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        known = [one for one in inner if one is not type(None)]
        return None if value is None else _value(known[0], value, place)
    if origin is tuple:
        if not isinstance(value, list):
            raise UsageError(f"{place} must be a list, not {value!r}")
        return tuple(_value(inner[0], item, f"{place}, item {number}") for number, item in enumerate(value, start=1))
    if origin is not None:  # a mapping
        if not isinstance(value, Mapping):
            raise UsageError(f"{place} must be an object, not {value!r}")
        return {str(key): _value(inner[1], item, f"{place}.{key}") for key, item in value.items()}
    if is_dataclass(hint):
        return _dataclass(hint, value, place)
    fits = isinstance(value, (int, float) if hint is float else hint) and (hint is bool or not isinstance(value, bool))
    if not fits:
        raise UsageError(f"{place} must be {_WORDS[hint]}, not {value!r}")
    return value
