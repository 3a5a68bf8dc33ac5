"""Kinds of values that run settings have: read from JSON or TOML, read from a command line, written back.

Plain classes, not dataclasses: each of those costs about a millisecond of every start, and kinds are never compared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NoReturn, Protocol

from vramplan.dtypes import DType
from vramplan.errors import UsageError
from vramplan.units import GB, MiB, parse_bytes

# A release, then any pre-, post-, dev- or local part: 4.51.1, 5.0.0rc1, 2.10.0+cu128.
_VERSION = re.compile(r"\d[A-Za-z0-9]*([.+-][A-Za-z0-9]+)*", re.ASCII)


class Kind(Protocol):
    """One kind of value.

    `read` and `read_text` raise ValueError; their caller names the key and says what was expected.
    """

    expected: str
    """What a value must be, to end the sentence "batch_size must be …"."""

    known: tuple[str, ...]
    """The choices, empty where there are none."""

    def read(self, value: object) -> object:
        """A checked value from a typed one."""

    def read_text(self, text: str) -> object:
        """A checked value from the text of a flag."""

    def write(self, value: object) -> object:
        """What JSON and TOML hold for a value: `read(write(x)) == x`."""


class Plain:
    """What kinds share: no choices, and values are written as they are."""

    expected: str
    known: tuple[str, ...] = ()

    def write(self, value: object) -> object:
        """The value itself."""
        return value


class Text(Plain):
    """Any text that is not blank."""

    expected = "a text"

    def read(self, value: object) -> str:
        """The text without outer blanks."""
        if not isinstance(value, str) or not value.strip():
            raise ValueError
        return value.strip()

    def read_text(self, text: str) -> str:
        """The text without outer blanks."""
        return self.read(text)


class Choice(Plain):
    """One of a few words.

    Args:
        choices: the words, as this program spells them.
        spellings: how others write them.
    """

    def __init__(self, choices: tuple[str, ...], spellings: Mapping[str, str] | None = None) -> None:
        self.known = choices
        self.expected = f"one of {', '.join(choices)}"
        self._spellings = spellings or {}

    def read(self, value: object) -> str:
        """The choice; case, and `-` or `_`, do not matter."""
        if not isinstance(value, str):
            raise ValueError
        asked = _squash(value)
        for choice in self.known:
            if _squash(choice) == asked:
                return choice
        return self._spellings[asked] if asked in self._spellings else _refuse()

    def read_text(self, text: str) -> str:
        """The choice."""
        return self.read(text)


class Dtype(Choice):
    """A 16-bit or 32-bit floating type, in anyone's spelling (`bfloat16`, `torch.float16`, `F32`)."""

    def __init__(self) -> None:
        super().__init__(("bf16", "fp16", "fp32"))

    def read(self, value: object) -> str:
        """The type's name here."""
        if not isinstance(value, str):
            raise ValueError
        try:
            label = DType.parse(value.strip()).label
        except UsageError as error:
            raise ValueError from error
        return label if label in self.known else _refuse()


class Switch(Plain):
    """True or false."""

    expected = "true or false"

    def read(self, value: object) -> bool:
        """The value, which must be a bool already."""
        if not isinstance(value, bool):
            raise ValueError
        return value

    def read_text(self, text: str) -> bool:
        """True or false, as words."""
        word = text.strip().lower()
        return word == "true" if word in ("true", "false") else _refuse()


class Count(Plain):
    """A whole number from 1 up."""

    expected = "a whole number of at least 1"

    def read(self, value: object) -> int:
        """The number; a bool is not one."""
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError
        return value

    def read_text(self, text: str) -> int:
        """The number; `1_000` and `1,000` are refused, as in JSON."""
        return self.read(int(text)) if re.fullmatch(r"\s*\d{1,18}\s*", text, re.ASCII) else _refuse()


class Number(Plain):
    """A finite number in an interval.

    Args:
        low: the least it may be.
        high: the most it may be, or None.
        open_low: whether `low` itself is refused.
    """

    def __init__(self, low: float, high: float | None = None, *, open_low: bool = False) -> None:
        self._low, self._high, self._open_low = low, float("inf") if high is None else high, open_low
        least = f"more than {low:g}" if open_low else f"at least {low:g}"
        self.expected = f"a number of {least}" if high is None else f"a number of {least} and at most {high:g}"

    def read(self, value: object) -> float:
        """The number as a float; a bool, an infinity and a NaN are not numbers."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError
        number = float(value)  # an int too large for a float raises OverflowError, which is not a ValueError
        inside = (self._low < number if self._open_low else self._low <= number) and number <= self._high
        return number if inside and number != float("inf") else _refuse()

    def read_text(self, text: str) -> float:
        """The number."""
        return self.read(float(text))


class Words(Plain):
    """A list of words.

    Args:
        choices: the words there are, or none where any will do.
        none_word: the word that stands for the empty list, where it is allowed.
    """

    def __init__(self, choices: tuple[str, ...] = (), *, none_word: str | None = None) -> None:
        self.known = choices
        self.expected = f"a list of {' and '.join(choices)}" if choices else "a list of names"
        self._none_word = none_word

    def read(self, value: object) -> tuple[str, ...]:
        """The words, each once, in their order; a text is read as a flag's would be."""
        if isinstance(value, str):
            return self.read_text(value)
        if not isinstance(value, (list, tuple)) or not all(isinstance(word, str) for word in value):
            raise ValueError
        words = tuple(dict.fromkeys(word.strip() for word in value))
        if not words and self._none_word is None:
            raise ValueError
        if not all(words) or (self.known and not set(words) <= set(self.known)):
            raise ValueError
        if any("," in word for word in words):  # one word holding a whole list is a mistake
            raise ValueError
        return words

    def read_text(self, text: str) -> tuple[str, ...]:
        """The words of `a,b`."""
        if self._none_word is not None and text.strip().lower() == self._none_word:
            return ()
        return self.read(text.split(","))

    def write(self, value: object) -> object:
        """A list."""
        return list(value) if isinstance(value, tuple) else _refuse()


class Size(Plain):
    """Bytes: a number means GB, a text may name its unit."""

    expected = "a size like 85, 85GB, 80GiB or 81559MiB"

    def read(self, value: object) -> int:
        """Bytes."""
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError
        return self.read_text(value if isinstance(value, str) else repr(value))

    def read_text(self, text: str) -> int:
        """Bytes."""
        try:
            return parse_bytes(text)
        except UsageError as error:
            raise ValueError from error

    def write(self, value: object) -> object:
        """The shortest exact spelling: `85`, `81559MiB`, `85000000001B`."""
        if not isinstance(value, int):
            return _refuse()
        if value % GB == 0:
            return value // GB
        return f"{value // MiB}MiB" if value % MiB == 0 else f"{value}B"


class Versions(Plain):
    """Library versions by package name.

    Args:
        packages: the packages whose versions matter.
        spellings: other names for them.
    """

    def __init__(self, packages: tuple[str, ...], spellings: Mapping[str, str] | None = None) -> None:
        self.known = packages
        self.expected = f"package=version for {', '.join(packages)}"
        self._spellings = spellings or {}

    def read(self, value: object) -> dict[str, str]:
        """Versions in the packages' own order."""
        if isinstance(value, str):
            return self.read_text(value)
        if not isinstance(value, Mapping):
            raise ValueError
        found: dict[str, str] = {}
        for package, version in value.items():
            name = self._package(package)
            if name in found or not isinstance(version, str) or not _VERSION.fullmatch(version.strip()):
                raise ValueError
            found[name] = version.strip()
        return {name: found[name] for name in self.known if name in found}

    def read_text(self, text: str) -> dict[str, str]:
        """The pairs of `transformers=4.51.1,trl==0.14.0`; an empty text is no pair."""
        pairs: dict[str, str] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, equals, version = part.partition("=")
            if not equals or name.strip() in pairs:
                raise ValueError
            pairs[name.strip()] = version.lstrip("=")
        return self.read(pairs)

    def write(self, value: object) -> object:
        """A mapping."""
        return dict(value) if isinstance(value, Mapping) else _refuse()

    def _package(self, name: object) -> str:
        asked = name.strip().lower().replace("-", "_") if isinstance(name, str) else _refuse()
        asked = self._spellings.get(asked, asked)
        return asked if asked in self.known else _refuse()


def _squash(word: str) -> str:
    return word.strip().lower().replace("-", "_")


def _refuse() -> NoReturn:
    raise ValueError
