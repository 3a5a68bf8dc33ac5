"""`vramplan compare` as text and JSON (`vramplan.compare/1`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from vramplan.output.explain import wrapped
from vramplan.output.words import UNIT_WORDS
from vramplan.records.compare import Compared, Difference, PhaseDifference, Setting
from vramplan.records.side import Side
from vramplan.units import format_bytes

SCHEMA = "vramplan.compare/1"
_LABEL_COLUMNS = 20
_TOTALS = {"allocated": "allocated", "reserved": "reserved", "device_used": "device"}


def comparison_to_dict(found: Compared) -> dict[str, Any]:
    """Plain values; ratios as they are, 0.01 for one per cent."""
    return {
        "schema": SCHEMA,
        "a": _side(found.a),
        "b": _side(found.b),
        "inputs": [_setting(one) for one in found.inputs],
        "versions": [_setting(one) for one in found.versions],
        "phases": [
            {
                "name": phase.name,
                "in": ["a", "b"] if phase.only_in is None else [phase.only_in],
                "totals": [_difference(one) for one in phase.totals],
                "components": None if phase.components is None else [_difference(one) for one in phase.components],
            }
            for phase in found.phases
        ],
        "peak": [_difference(one) for one in found.peak],
        "tolerance_ratio": found.tolerance_ratio,
        "within_tolerance": None if found.tolerance_ratio is None else not found.beyond,
        "beyond": list(found.beyond),
    }


def render_comparison(found: Compared, *, units: str = "GB", width: int = 80) -> str:
    """Phases side by side, one line for each quantity; B less A, and that against A."""
    lines = [*_heading("A", found.a, width), *_heading("B", found.b, width)]
    for title, settings in (("Asked differently", found.inputs), ("Versions that differ", found.versions)):
        if settings:
            lines += ["", title]
            for one in settings:
                text = f"{one.key}: {_word(one.a)} in A, {_word(one.b)} in B"
                lines += wrapped(text, width, indent=2, hanging=4)
    lines += ["", *wrapped(f"Sizes in {UNIT_WORDS[units]}; B - A, and its share of A", width)]
    sizes = _columns(found, units)
    lines.append(_line("", ("A", "B", "B - A", "of A"), sizes))
    for phase in (phase for phase in found.phases if phase.only_in is None):
        lines += ["", phase.name, *_phase(phase, units, sizes)]
    lines += ["", "peak of the run", *(_difference_line(one, _TOTALS[one.name], units, sizes) for one in found.peak)]
    for letter in ("a", "b"):
        only = [phase for phase in found.phases if phase.only_in == letter]
        if only:
            lines += [
                "",
                *wrapped(
                    f"Only in {letter.upper()}: {'; '.join(_only(phase, letter, units) for phase in only)}",
                    width,
                    hanging=2,
                ),
            ]
    return "\n".join([*lines, *_ending(found, width)]) + "\n"


def _ending(found: Compared, width: int) -> Iterator[str]:
    if found.tolerance_ratio is None:
        return
    yield ""
    if not found.beyond:
        yield f"Within {found.tolerance_ratio:.2%}."
        return
    yield f"Outside {found.tolerance_ratio:.2%}:"
    for sentence in found.beyond:
        yield from wrapped(sentence, width, indent=2, hanging=4)


def _heading(letter: str, side: Side, width: int) -> Iterator[str]:
    words = [side.how, *([] if side.id is None else [side.id]), f"({side.where})"]
    card = "" if side.gpu is None else f", on {side.gpu}"
    yield from wrapped(f"{letter}  {' '.join(words)}{card}", width, hanging=3)
    for note in side.notes:
        yield from wrapped(note, width, indent=3, hanging=5)


def _phase(phase: PhaseDifference, units: str, sizes: tuple[int, ...]) -> Iterator[str]:
    for one in phase.totals:
        yield _difference_line(one, _TOTALS[one.name], units, sizes)
    for one in phase.components or ():
        yield _difference_line(one, f"  {_component(one.name)}", units, sizes)


def _component(name: str) -> str:
    return name.replace("_", " ").replace("kv", "KV")


def _difference_line(one: Difference, label: str, units: str, sizes: tuple[int, ...]) -> str:
    difference, ratio = one.difference_bytes, one.difference_ratio
    cells = (
        _size(one.a_bytes, units),
        _size(one.b_bytes, units),
        "-" if difference is None else _signed(difference, units),
        "-" if ratio is None else _percent(ratio),
    )
    return _line(f"  {label}", cells, sizes)


def _columns(found: Compared, units: str) -> tuple[int, ...]:
    numbers = [one for phase in found.phases for one in (*phase.totals, *(phase.components or ()))]
    widest = max((len(_size(size, units)) for one in numbers for size in (one.a_bytes, one.b_bytes)), default=0)
    return (max(9, widest + 2),) * 2 + (max(10, widest + 3), 9)


def _line(label: str, cells: tuple[str, ...], sizes: tuple[int, ...]) -> str:
    return f"{label:<{_LABEL_COLUMNS}}" + "".join(f"{cell:>{size}}" for cell, size in zip(cells, sizes, strict=True))


def _size(num_bytes: int | None, units: str) -> str:
    return "-" if num_bytes is None else format_bytes(num_bytes, units)


def _signed(num_bytes: int, units: str) -> str:
    text = format_bytes(abs(num_bytes), units)
    if not text.strip("0."):  # nothing of it is left at this many digits
        return text
    return f"{'+' if num_bytes > 0 else '-'}{text}"


def _percent(ratio: float) -> str:
    if abs(ratio) >= 10:
        return f"{ratio:+.0%}"
    return "0.0%" if abs(ratio) < 0.0005 else f"{ratio:+.1%}"


def _only(phase: PhaseDifference, letter: str, units: str) -> str:
    device = next(one for one in phase.totals if one.name == "device_used")
    num_bytes = device.a_bytes if letter == "a" else device.b_bytes
    return phase.name if num_bytes is None else f"{phase.name} ({format_bytes(num_bytes, units)} on the device)"


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _side(side: Side) -> dict[str, Any]:
    return {"how": side.how, "id": side.id, "where": side.where, "gpu": side.gpu, "notes": list(side.notes)}


def _setting(one: Setting) -> dict[str, Any]:
    return {"key": one.key, "a": one.a, "b": one.b}


def _difference(one: Difference) -> dict[str, Any]:
    return {
        "name": one.name,
        "a_bytes": one.a_bytes,
        "b_bytes": one.b_bytes,
        "difference_bytes": one.difference_bytes,
        "difference_ratio": one.difference_ratio,
    }
