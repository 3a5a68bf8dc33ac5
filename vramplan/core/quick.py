"""Frozen dataclasses that are quickly made.

`dataclass(frozen=True, slots=True, kw_only=True)` compiles six functions for each class, 0.8 ms, and seventy such
classes were a quarter of what `vramplan estimate` took. Here the standard library makes the fields and the slots, one
function is compiled, and the rest is shared. `tests/unit/core/test_core_quick.py` holds what comes of it to what the
standard library makes of the same bodies; for a type checker it is the standard library's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

_T = TypeVar("_T")
_FACTORY = object()
"""Stands for a value that its field's factory makes."""

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen: bool, slots: bool, kw_only: bool, eq: bool = True) -> Callable[[type[_T]], type[_T]]:
        """`dataclasses.dataclass` with these options, the first three of which must be true."""
        assert frozen and slots and kw_only, "use dataclasses.dataclass"  # noqa: PT018
        return lambda cls: _made(cls, eq=eq)


def _made(cls: Any, *, eq: bool) -> Any:
    made: Any = dataclasses.dataclass(init=False, repr=False, eq=False, slots=True, kw_only=True)(cls)
    fields = dataclasses.fields(made)
    made.__init__ = _init(made, fields)
    made.__setattr__, made.__delattr__ = _refuse_to_set, _refuse_to_delete
    made.__getstate__, made.__setstate__ = _get_state, _set_state
    if "__repr__" not in cls.__dict__:
        made.__repr__ = _repr
    if eq:
        compared = _values_of([one.name for one in fields if one.compare])
        hashed = _values_of([one.name for one in fields if (one.compare if one.hash is None else one.hash)])
        made.__eq__ = lambda self, other: (
            compared(self) == compared(other) if other.__class__ is self.__class__ else NotImplemented
        )
        made.__hash__ = lambda self: hash(hashed(self))
    return made


def _init(made: Any, fields: tuple[dataclasses.Field[Any], ...]) -> Any:
    """The one function that is worth compiling: it runs for every object."""
    known: dict[str, Any] = {"_set": object.__setattr__, "_FACTORY": _FACTORY}
    parameters, lines = ["self"], []
    for one in fields:
        if not one.init:
            continue
        name, value = one.name, one.name
        if one.default is not dataclasses.MISSING:
            known[f"_default_{name}"] = one.default
            parameters.append(f"{name}=_default_{name}")
        elif one.default_factory is not dataclasses.MISSING:
            known[f"_make_{name}"] = one.default_factory
            parameters.append(f"{name}=_FACTORY")
            value = f"_make_{name}() if {name} is _FACTORY else {name}"
        else:
            parameters.append(name)
        lines.append(f" _set(self, {name!r}, {value})")
    if len(parameters) > 1:
        parameters.insert(1, "*")
    if hasattr(made, "__post_init__"):
        lines.append(" self.__post_init__()")
    exec(f"def __init__({', '.join(parameters)}):\n" + "\n".join(lines or [" pass"]), known)
    function = known["__init__"]
    function.__qualname__ = f"{made.__qualname__}.__init__"
    return function


def _values_of(names: list[str]) -> Callable[[Any], Any]:
    if not names:
        return lambda _: ()
    return attrgetter(*names)


def _refuse_to_set(_: object, name: str, value: object) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}: it would become {value!r}")


def _refuse_to_delete(_: object, name: str) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _repr(self: Any) -> str:
    shown = ", ".join(f"{one.name}={getattr(self, one.name)!r}" for one in dataclasses.fields(self) if one.repr)
    return f"{type(self).__qualname__}({shown})"


def _get_state(self: Any) -> list[Any]:
    return [getattr(self, one.name) for one in dataclasses.fields(self)]


def _set_state(self: Any, state: list[Any]) -> None:
    for one, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, one.name, value)
