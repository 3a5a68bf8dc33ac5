"""Typed access to a config.json: a field is what the reader expects, or an error that names the field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vramplan.errors import UnsupportedArchitectureError

# Far above any model (the deepest known has a few hundred): a typing slip must not fill the memory with layers.
_MOST_LAYERS = 10_000


@dataclass(frozen=True, slots=True)
class ConfigReader:
    """The fields of one config, read for one architecture.

    A field that is absent takes the default of transformers' config class, which each reader restates; a field that
    is null takes that class's rule for null.

    Args:
        fields: the parsed config.json, or the `text_config` inside it.
        model_type: the architecture it is read as, for error messages.
    """

    fields: Mapping[str, object]
    model_type: str

    def required_int(self, *names: str) -> int:
        """A size that no default can stand in for, under the first of `names` that the config has.

        Raises:
            UnsupportedArchitectureError: the field is absent, null, or not a whole number above zero.
        """
        for name in names:
            if self.fields.get(name) is not None:
                return self._whole(name, minimum=1)
        raise self.error(
            f"the config of this {self.model_type} model has no `{names[0]}`",
            hint="complete the config.json, or measure the model with `vramplan simulate`",
        )

    def integer(self, *names: str, absent: int, null: int | None = None, minimum: int = 1) -> int:
        """A size with a default.

        Args:
            names: the field, then other spellings of it.
            absent: the value where the config has none of them.
            null: the value where the field is null; None where the model cannot be built then.
            minimum: the least value that makes sense.
        """
        for name in names:
            if name in self.fields:
                if self.fields[name] is None and null is not None:
                    return null
                return self._whole(name, minimum=minimum)
        return absent

    def optional_int(self, name: str, *, absent: int | None = None) -> int | None:
        """A size that may be null, meaning that there is no such thing."""
        if name not in self.fields:
            return absent
        return None if self.fields[name] is None else self._whole(name, minimum=1)

    def layers(self, *names: str) -> int:
        """The number of decoder blocks."""
        count = self.required_int(*names)
        if count > _MOST_LAYERS:
            raise self.error(f"`{names[0]}` is {count:,}, more layers than any model has")
        return count

    def boolean(self, name: str, *, absent: bool) -> bool:
        """A switch; null is off, as it is to `if` in transformers."""
        value = self.fields.get(name, absent)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self.error(f"`{name}` is {value!r}, not true or false")
        return value

    def number(self, name: str, *, absent: float | None) -> float | None:
        """A real number that may be null."""
        value = self.fields.get(name, absent)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.error(f"`{name}` is {value!r}, not a number")
        return float(value)

    def drops(self, name: str, *, absent: float = 0.0) -> bool:
        """Whether a dropout probability is above zero: at zero torch returns its input and saves no mask."""
        return (self.number(name, absent=absent) or 0.0) > 0.0

    def text(self, name: str, *, absent: str) -> str:
        """A name, such as that of an activation."""
        value = self.fields.get(name, absent)
        if not isinstance(value, str):
            raise self.error(f"`{name}` is {value!r}, not a name")
        return value

    def texts(self, *names: str) -> tuple[str, ...] | None:
        """A list of names under the first of `names` that is not null, or None."""
        for name in names:
            value = self.fields.get(name)
            if value is not None:
                if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
                    raise self.error(f"`{name}` is {value!r}, not a list of names")
                return tuple(value)
        return None

    def integers(self, name: str) -> tuple[int, ...]:
        """A list of whole numbers; empty where absent or null."""
        value = self.fields.get(name) or ()
        if not isinstance(value, (list, tuple)) or not all(type(item) is int for item in value):
            raise self.error(f"`{name}` is {value!r}, not a list of whole numbers")
        return tuple(value)

    def section(self, name: str) -> ConfigReader | None:
        """A nested object as a reader of its own, or None where it is absent, null or empty."""
        value = self.fields.get(name)
        if value is None or value == {}:
            return None
        if not isinstance(value, Mapping):
            raise self.error(f"`{name}` is {value!r}, not an object")
        return ConfigReader(value, self.model_type)

    def error(self, message: str, *, hint: str | None = None) -> UnsupportedArchitectureError:
        """The error to raise, for this config."""
        return UnsupportedArchitectureError(message, hint=hint or "check the config.json, or use `vramplan simulate`")

    def _whole(self, name: str, *, minimum: int) -> int:
        value = self.fields[name]
        # type(), not isinstance(): True is an int to Python, and no size to anyone.
        if type(value) is not int or value < minimum:
            raise self.error(f"`{name}` is {value!r}, not a whole number of at least {minimum}")
        return value
