"""Records on disk: JSON lines that are only ever appended to."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vramplan.errors import UsageError
from vramplan.records.record import Record
from vramplan.records.record_json import parse_record


def read_records(path: Path) -> tuple[Record, ...]:
    """The records of a file, or of every `.jsonl` and `.json` file below a folder, in the files' order.

    A last line without its line break is one that a killed process did not get to write: it is left out.

    Raises:
        UsageError: nothing is there, a file cannot be read, or a line is not a record as it was written.
    """
    if path.is_dir():
        files = sorted(file for suffix in ("*.jsonl", "*.json") for file in path.rglob(suffix))
        return tuple(record for file in files for record in _of_file(file))
    return tuple(_of_file(path))


def append_record(path: Path, record: Record) -> None:
    """Appends a record to a file, which is made with its folders if it is not there, and waits until it is on disk.

    Raises:
        UsageError: it cannot be written.
    """
    line = json.dumps(record.to_json(), separators=(",", ":"), allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_torn_line(path)
        with path.open("a", encoding="utf-8", newline="") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Nobody else measures into this file meanwhile: the same runs would be measured twice, and disturb each other.

    Raises:
        UsageError: somebody does, or it cannot be written.
    """
    import fcntl

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            hint = "wait for it, or name another file with --output"
            raise UsageError(f"another vramplan measures into {path}", hint=hint) from error
        except OSError:
            pass  # a file system or a device without locks
        try:
            yield
        finally:
            if path.is_file() and path.stat().st_size == 0:  # nothing was measured
                path.unlink()


def folder_name(gpu_name: str) -> str:
    """A card's name as a folder's: `NVIDIA H100 80GB HBM3` is `nvidia-h100-80gb-hbm3`."""
    return re.sub(r"[^a-z0-9]+", "-", gpu_name.lower()).strip("-") or "unknown"


def _of_file(path: Path) -> Iterator[Record]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if path.suffix == ".json":
        yield parse_record(_load(text, str(path)), str(path))
        return
    whole = text[: text.rfind("\n") + 1]
    for number, line in enumerate(whole.splitlines(), start=1):
        if line.strip():
            place = f"{path}, line {number}"
            yield parse_record(_load(line, place), place)


def _load(text: str, place: str) -> object:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{place}: not JSON: {error}") from error
    return value


def _drop_torn_line(path: Path) -> None:
    if not path.is_file():  # a device or a pipe holds no line of before
        return
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        with path.open("r+b") as file:
            file.truncate(end)
