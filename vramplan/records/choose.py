"""Finding a report or a record by what a user writes: FILE, FILE#id, FILE:N, or - for stdin."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vramplan.errors import UsageError
from vramplan.records.side import Side, parse_side

STDIN = "-"
_MOST_IDS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What was written.

    Args:
        file: a path, or `-`.
        id: of the run, or the beginning of a record's hash; None where it was not given.
        line: counted from 1; None where it was not given.
    """

    file: str
    id: str | None = None
    line: int | None = None


def parse_choice(text: str) -> Choice:
    """A path that exists is taken as it is, whatever `#` or `:` are in it.

    Raises:
        UsageError: line 0 was asked for.
    """
    if text == STDIN or Path(text).is_file():
        return Choice(file=text)
    file, mark, chosen = text.rpartition("#")
    if mark and file and (file == STDIN or Path(file).is_file()):
        return Choice(file=file, id=chosen)
    match = re.fullmatch(r"(?P<file>.+):(?P<line>\d+)", text)
    if match is None:
        return Choice(file=text)
    if int(match["line"]) == 0:
        raise UsageError(f"{text}: lines are counted from 1")
    return Choice(file=match["file"], line=int(match["line"]))


def read_side(choice: Choice, read_stdin: Callable[[], str]) -> Side:
    """The report or record that was chosen.

    Raises:
        UsageError: the file cannot be read, holds none, or holds several and none was chosen.
    """
    name = "stdin" if choice.file == STDIN else choice.file
    rows = list(_rows(_text(choice, read_stdin), name))
    is_one_of_many = len(rows) > 1
    if not rows:
        raise UsageError(f"{name} is empty")
    if choice.line is not None:
        rows = [row for row in rows if row[0] == choice.line]
        if not rows:
            raise UsageError(f"{name} has nothing on line {choice.line}")
    if choice.id is not None:
        ids = _ids(rows)
        rows = [row for row in rows if _has_id(row[1], choice.id)]
        if not rows:
            raise UsageError(f"{name} has no {choice.id!r}", hint=f"it has {ids}")
        if len({_id(value) for _, value in rows}) > 1:
            raise UsageError(f"{choice.id!r} is the beginning of several ids in {name}", hint=f"they are {_ids(rows)}")
        rows = rows[-1:]  # a run that was answered or measured again: the newest
    if len(rows) > 1:
        hint = f"choose one: {name}#ID or {name}:LINE; it has {_ids(rows)}"
        raise UsageError(f"{name} holds {len(rows)} of them", hint=hint)
    number, value = rows[0]
    return parse_side(value, f"{name}, line {number}" if is_one_of_many or choice.line is not None else name)


def _text(choice: Choice, read_stdin: Callable[[], str]) -> str:
    if choice.file == STDIN:
        return read_stdin()
    try:
        return Path(choice.file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{choice.file} is not UTF-8 text") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{choice.file} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _rows(text: str, name: str) -> Iterator[tuple[int, object]]:
    """(line, value); one document, over however many lines, has the line 1."""
    try:
        yield 1, json.loads(text)
        return
    except (ValueError, RecursionError):
        lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    for number, line in lines:
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{name}, line {number}: not JSON: {error}") from error


def _id(value: object) -> str | None:
    if not isinstance(value, Mapping):
        return None
    if isinstance(value.get("hash"), str):
        return str(value["hash"])
    return None if value.get("id") is None else str(value["id"])


def _has_id(value: object, wanted: str) -> bool:
    own = _id(value)
    if own is None or not isinstance(value, Mapping):
        return False
    return own.startswith(wanted) if "hash" in value and wanted else own == wanted


def _ids(rows: list[tuple[int, object]]) -> str:
    ids = [_id(value) for _, value in rows]
    names = [
        one[:12] if isinstance(value, Mapping) and "hash" in value else one
        for one, (_, value) in zip(ids, rows, strict=True)
        if one
    ]
    more = "" if len(names) <= _MOST_IDS else f" and {len(names) - _MOST_IDS} more"
    return f"the ids {', '.join(names[:_MOST_IDS])}{more}" if names else "no ids: choose by line"
