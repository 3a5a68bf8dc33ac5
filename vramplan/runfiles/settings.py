"""Settings of a file read as a flat run's kinds of values, with the file and line in every message."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from vramplan.errors import UsageError
from vramplan.runfiles.flat_keys import KINDS
from vramplan.runfiles.flat_kinds import Kind, Switch, Text
from vramplan.runfiles.interpolation import is_open
from vramplan.runfiles.runfile import Place, Written

_SWITCH, _TEXT = Switch(), Text()
_OPEN = (KINDS["optim"], KINDS["attn_implementation"])
"""Kinds that the tools have more choices of than are modelled."""


def where(place: Place) -> str:
    """`file:line`, or the file alone."""
    return f"{place.file}:{place.line}" if place.line else str(place.file)


class Settings:
    """The settings of a file by their dotted keys.

    A null, a `???` and what refers to something unknown are not given.
    """

    def __init__(self, written: Mapping[str, Written]) -> None:
        self._written = written

    def find(self, *keys: str) -> Written | None:
        """The first of these that is given."""
        for key in keys:
            found = self._written.get(key)
            if found is not None and found.value is not None and not is_open(found.value):
                return found
        return None

    def has(self, *keys: str) -> bool:
        """Whether one of these is written, be it as null."""
        return any(key in self._written for key in keys)

    def below(self, prefix: str) -> bool:
        """Whether the file has a mapping of that name."""
        return any(key.startswith(f"{prefix}.") for key in self._written)

    def take(self, flat_key: str, *keys: str) -> Any:
        """A flat run's setting from the first of these that is given, or None.

        Raises:
            UsageError: it is not of the kind that the setting has.
        """
        return self._read(KINDS[flat_key], self.find(*keys))

    def switch(self, *keys: str) -> bool | None:
        """A truth value, or None.

        Raises:
            UsageError: it is something else.
        """
        found = self._read(_SWITCH, self.find(*keys))
        return None if found is None else bool(found)

    def text(self, *keys: str) -> str | None:
        """A text, or None.

        Raises:
            UsageError: it is something else.
        """
        found = self._read(_TEXT, self.find(*keys))
        return None if found is None else str(found)

    def _read(self, kind: Kind, found: Written | None) -> object:
        if found is None:
            return None
        value = found.value
        try:
            return kind.read_text(value) if isinstance(value, str) else kind.read(value)
        except (ValueError, OverflowError) as error:
            if isinstance(value, str) and kind in _OPEN:
                raise UsageError(
                    f"{where(found.place)}: {found.key} {value!r} is not modelled", hint=f"{', '.join(kind.known)} are"
                ) from error
            near = difflib.get_close_matches(str(value), kind.known, n=1, cutoff=0.6)
            raise UsageError(
                f"{where(found.place)}: {found.key} must be {kind.expected}, not {value!r}",
                hint=f"the nearest is {near[0]}" if near else None,
            ) from error


def given(**values: Any) -> dict[str, Any]:
    """The values that are not None."""
    return {key: value for key, value in values.items() if value is not None}


def precision(settings: Settings, bf16: str, fp16: str) -> str | None:
    """The autocast type that transformers' two switches ask for; None where the tool's default decides."""
    on, half = settings.switch(bf16), settings.switch(fp16)
    if on:
        return "bf16"
    if half:
        return "fp16"
    return "no" if on is False else None


def quantization(settings: Settings, prefix: str = "", *, default_type: str = "nf4") -> dict[str, Any]:
    """What bitsandbytes is asked for by `load_in_8bit` and its companions under a prefix.

    Args:
        settings: the file's.
        prefix: of the keys, with its dot.
        default_type: of 4 bits: TRL's ModelConfig takes nf4 (trl 1.16 model_config.py), transformers' own
            BitsAndBytesConfig fp4 (transformers 5.23 quantization_config.py, line 449).
    """
    eight, four = (settings.switch(f"{prefix}load_in_{bits}bit") for bits in (8, 4))
    if eight is None and four is None:
        return {}
    if eight and four:
        found = settings.find(f"{prefix}load_in_4bit")
        place = where(found.place) if found else ""
        raise UsageError(f"{place}: load_in_8bit and load_in_4bit are both asked for", hint="set one of them to false")
    if eight:
        return {"quantization": "int8"}
    if not four:
        return {"quantization": "none"}
    nested = settings.switch(f"{prefix}use_bnb_nested_quant", f"{prefix}bnb_4bit_use_double_quant")
    kind = settings.text(f"{prefix}bnb_4bit_quant_type") or default_type
    if kind not in ("nf4", "fp4"):
        found = settings.find(f"{prefix}bnb_4bit_quant_type")
        place = where(found.place) if found else ""
        raise UsageError(f"{place}: {prefix}bnb_4bit_quant_type must be one of nf4, fp4, not {kind!r}")
    return given(quantization=kind, double_quant=nested)
