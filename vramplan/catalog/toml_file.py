"""Strict reading of TOML: every message names the file and, where there is one, the line."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vramplan.catalog.dirs import suggestion
from vramplan.errors import UsageError
from vramplan.units import parse_bytes

_TABLE = re.compile(r"^\s*\[\[?\s*(?P<name>[^\[\]]+?)\s*\]")


def read_toml(path: Path) -> Table:
    """The top table of a TOML file.

    Raises:
        UsageError: it cannot be read or is not TOML; the message names the line.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text", hint="save it as UTF-8") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # Python names the place in the message only ("… (at line 3, column 5)", "… (at end of document)").
        reason, _, place = str(error).partition(" (at ")
        line = re.match(r"line (\d+)", place)
        number = int(line[1]) if line else text.count("\n") + 1
        raise UsageError(f"{path}, line {number}: {_lower_first(reason)}") from error
    return Table(path=path, text=text, name="", values=values)


@dataclass(slots=True, kw_only=True)
class Table:
    """One table of a file, that knows which of its keys were asked for.

    Args:
        path: the file.
        text: the file's text, to find a key's line in.
        name: the table's name, empty for the top.
        values: its keys and values.
    """

    path: Path
    text: str
    name: str
    values: Mapping[str, Any]
    _asked: set[str] = field(default_factory=set)

    def string(self, key: str) -> str:
        """A string that is there and not empty."""
        value = self._required(key)
        if not isinstance(value, str) or not value.strip():
            raise self.error(f"{self._where(key)} is not a text", key=key)
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        """A list of strings, empty where the key is absent; a string is a list of one."""
        self._asked.add(key)
        value = self.values.get(key, [])
        if isinstance(value, str):
            return (value,)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(f"{self._where(key)} is not a list of texts", key=key)
        return tuple(value)

    def positive_integer(self, key: str) -> int:
        """A whole number above zero."""
        value = self._required(key)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise self.error(f"{self._where(key)} is not a whole number above zero", key=key)
        return value

    def size_bytes(self, key: str) -> int:
        """A size with its unit, as `81559MiB`."""
        text = self.string(key)
        if text.strip().isdigit():
            raise self.error(f"{self._where(key)} has no unit", key=key, hint='write "81559MiB" or "79.18GiB"')
        try:
            return parse_bytes(text)
        except UsageError as error:
            raise self.error(f"{self._where(key)}: {error.message}", key=key, hint=error.hint) from error

    def table(self, key: str) -> Table:
        """A table that is there."""
        found = self.optional_table(key)
        if found is None:
            raise self.error(f"the table [{key}] is missing")
        return found

    def optional_table(self, key: str) -> Table | None:
        """A table, or None."""
        self._asked.add(key)
        values = self.values.get(key)
        if values is None:
            return None
        if not isinstance(values, dict):
            raise self.error(f"{self._where(key)} is not a table", key=key)
        return Table(path=self.path, text=self.text, name=key, values=values)

    def tables(self, key: str) -> tuple[Table, ...]:
        """A list of tables, empty where the key is absent."""
        self._asked.add(key)
        values = self.values.get(key, [])
        if not isinstance(values, list) or not all(isinstance(item, dict) for item in values):
            raise self.error(f"{self._where(key)} is not a list of tables", key=key)
        return tuple(Table(path=self.path, text=self.text, name=self._where(key), values=item) for item in values)

    def scalar(self, key: str) -> bool | int | float | str:
        """A truth value, a number or a text."""
        value = self._required(key)
        if not isinstance(value, (bool, int, float, str)):
            raise self.error(f"{self._where(key)} is not a truth value, a number or a text", key=key)
        return value

    def optional_pair(self, key: str) -> tuple[float, float] | None:
        """Two numbers of at least 0, or None where the key is absent."""
        self._asked.add(key)
        value = self.values.get(key)
        if value is None:
            return None
        items = value if isinstance(value, list) else []
        numbers = [float(one) for one in items if isinstance(one, (int, float)) and not isinstance(one, bool)]
        if len(items) != 2 or len(numbers) != 2 or not min(numbers) >= 0:
            raise self.error(f"{self._where(key)} is not a list of two numbers of at least 0", key=key)
        return numbers[0], numbers[1]

    def done(self) -> None:
        """Refuse keys nobody asked for.

        Raises:
            UsageError: there is one; the hint names the nearest key that is known.
        """
        for key in self.values:
            if key not in self._asked:
                known = sorted(self._asked)
                raise self.error(f"{self._where(key)} is not a known key", key=key, hint=suggestion(key, known, "keys"))

    def error(self, message: str, *, key: str | None = None, hint: str | None = None) -> UsageError:
        """An error that names the file and the line of `key`, or of this table."""
        return UsageError(f"{self.path}, line {self._line(key)}: {message}", hint=hint)

    def _required(self, key: str) -> object:
        self._asked.add(key)
        if key not in self.values:
            raise self.error(f"{self._where(key)} is missing")
        return self.values[key]

    def _where(self, key: str) -> str:
        return f"{self.name}.{key}" if self.name else key

    def _line(self, key: str | None) -> int:
        table, table_line = "", 1
        for number, line in enumerate(self.text.splitlines(), start=1):
            header = _TABLE.match(line)
            if header is not None:
                table = header["name"]
                if table == self.name:
                    table_line = number
                if not self.name and table == key:
                    return number
            elif key is not None and table == self.name and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[.=]", line):
                return number
        return table_line


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
