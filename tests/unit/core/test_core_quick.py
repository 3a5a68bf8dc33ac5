"""Quickly made dataclasses do what the standard library's do."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Mapping
from typing import Any

import pytest

from vramplan.core.layers import Norm, NormKind
from vramplan.core.quick import dataclass
from vramplan.core.run import LoadSpec
from vramplan.dtypes import DType


class Plain:
    """A body."""

    name: str
    size: int = 3
    parts: tuple[int, ...] = ()


class Made:
    """With everything that the package uses."""

    name: str
    notes: list[str] = dataclasses.field(default_factory=list)
    looked_up: Mapping[str, int] = dataclasses.field(default_factory=dict, hash=False)
    seen: int = dataclasses.field(default=0, compare=False)
    _sum: int = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a name is needed")
        object.__setattr__(self, "_sum", len(self.name))

    @property
    def length(self) -> int:
        return self._sum


class Single:
    """A body."""

    only: int


class Nothing:
    """A body."""


class Shown:
    """A body."""

    value: int

    def __repr__(self) -> str:
        return "mine"


OPTIONS: dict[str, Any] = {"frozen": True, "slots": True, "kw_only": True}
BODIES: dict[type, list[dict[str, Any]]] = {
    Plain: [{"name": "a"}, {"name": "a", "size": 3}, {"name": "a", "size": 4}, {"name": "b", "parts": (1, 2)}],
    Made: [
        {"name": "ab"},
        {"name": "ab", "seen": 7},
        {"name": "ab", "notes": ["x"]},
        {"name": "ab", "looked_up": {"k": 1}},
    ],
    Single: [{"only": 1}, {"only": 2}],
    Nothing: [{}],
    Shown: [{"value": 1}],
}


def both(body: type) -> tuple[Any, Any]:
    ours, theirs = (type(body.__name__, (), {**body.__dict__}) for _ in range(2))
    return dataclass(**OPTIONS)(ours), dataclasses.dataclass(**OPTIONS)(theirs)


@pytest.mark.parametrize("body", BODIES)
def test_made_as_the_standard_library_makes_it(body: type) -> None:
    ours, theirs = both(body)
    assert [(one.name, one.init, one.kw_only) for one in dataclasses.fields(ours)] == [
        (one.name, one.init, one.kw_only) for one in dataclasses.fields(theirs)
    ]
    assert ours.__slots__ == theirs.__slots__
    assert ours.__match_args__ == theirs.__match_args__
    assert ours.__doc__ == theirs.__doc__
    assert not hasattr(ours(**BODIES[body][0]), "__dict__")


@pytest.mark.parametrize("body", BODIES)
def test_objects_compare_hash_and_show_alike(body: type) -> None:
    ours, theirs = both(body)
    mine, yours = ([cls(**values) for values in BODIES[body]] for cls in (ours, theirs))
    assert [repr(one).replace("both.<locals>.", "") for one in mine] == [repr(one) for one in yours]
    assert [[one == other for other in mine] for one in mine] == [[one == other for other in yours] for one in yours]
    assert mine[0] != yours[0]
    assert mine[0] != object()
    for one, other in zip(mine, yours, strict=True):
        if body is Made:  # a list is no key
            with pytest.raises(TypeError):
                hash(one)
            with pytest.raises(TypeError):
                hash(other)
        else:
            assert len({one, copy.copy(one)}) == len({other, copy.copy(other)}) == 1


def test_what_is_left_out_of_the_hash_still_compares() -> None:
    class Keyed:
        key: int
        extra: Mapping[str, int] = dataclasses.field(default_factory=dict, hash=False)

    ours = dataclass(**OPTIONS)(Keyed)
    assert hash(ours(key=1, extra={"a": 1})) == hash(ours(key=1))
    assert ours(key=1, extra={"a": 1}) != ours(key=1)


@pytest.mark.parametrize("body", BODIES)
def test_nothing_changes(body: type) -> None:
    one = both(body)[0](**BODIES[body][0])
    for name in (*(field.name for field in dataclasses.fields(one)), "new"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(one, name, 1)
        with pytest.raises(dataclasses.FrozenInstanceError):
            delattr(one, name)


def test_every_default_made_is_its_own() -> None:
    ours, _ = both(Made)
    first, second = ours(name="a"), ours(name="a")
    assert first.notes is not second.notes
    assert first.length == 1


def test_arguments_are_checked_as_python_checks_them() -> None:
    ours, _ = both(Plain)
    for arguments, values in (((), {}), (("a",), {}), ((), {"name": "a", "other": 1})):
        with pytest.raises(TypeError):
            ours(*arguments, **values)
    with pytest.raises(ValueError, match="a name is needed"):
        both(Made)[0](name="")


def test_objects_are_replaced_copied_and_pickled() -> None:
    norm = Norm(name="norm", kind=NormKind.RMS, size=64)
    assert dataclasses.replace(norm, size=65) == Norm(name="norm", kind=NormKind.RMS, size=65)
    for other in (copy.copy(norm), copy.deepcopy(norm), pickle.loads(pickle.dumps(norm))):
        assert other == norm
        assert other is not norm
    with pytest.raises(ValueError, match="norms alone"):
        dataclasses.replace(LoadSpec(dtype=DType.BF16), kbit_norms_only=True)
    assert dataclasses.is_dataclass(norm)
    assert dataclasses.asdict(norm)["size"] == 64


def test_identity_where_equality_is_not_asked_for() -> None:
    class Apart:
        value: int

    made = dataclass(**OPTIONS, eq=False)(Apart)
    one = made(value=1)
    assert one != made(value=1)
    assert {one: 1}[one] == 1
