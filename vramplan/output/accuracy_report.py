"""`vramplan accuracy` as text, Markdown and JSON (`vramplan.accuracy/1`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import groupby
from typing import Any

from vramplan.output.explain import wrapped
from vramplan.records.accuracy import Accuracy
from vramplan.records.scoring import Score, Statistics

SCHEMA = "vramplan.accuracy/1"
_HEADS = ("n", "median", "p95", "under", "over", "inside", "+-band")
_KINDS = {"device_used": "device", "device_used_above_baseline": "above baseline"}


def accuracy_to_dict(accuracy: Accuracy) -> dict[str, Any]:
    """Plain values; ratios as they are, 0.01 for one per cent."""
    return {
        "schema": SCHEMA,
        "how": accuracy.how,
        "within_tolerance": not accuracy.beyond,
        "beyond": list(accuracy.beyond),
        "kinds": {name: asdict(found) for name, found in accuracy.families.items()},
        "groups": [
            dict(zip(("source", "method", "quantization", "kind"), key, strict=True)) | asdict(found)
            for key, found in accuracy.groups.items()
        ],
        "rows": [_row(item) for item in accuracy.scores],
        "unanswered": [{"id": item.row.id, "message": item.message} for item in accuracy.unanswered],
    }


def render_accuracy(accuracy: Accuracy, *, width: int = 80, rows: bool = False) -> str:
    """Tables of at most 80 columns, whatever the sources are called."""
    lines = wrapped(
        f"{accuracy.how} against {len(accuracy.scores)} measured rows: median and p95 of |e|, the worst e under and "
        f"over, with e = (predicted - measured) / measured; share of rows inside the band, and the band's median "
        f"half-width",
        width,
    )
    lines += ["", _line("all sources", "", "", *_HEADS)]
    lines += [_line(f"  {name}", "", "", *_cells(found)) for name, found in accuracy.families.items()]
    for source, groups in groupby(accuracy.groups.items(), key=lambda item: item[0][0]):
        lines += ["", *wrapped(source, width), _line("  method", "quant", "kind", *_HEADS)]
        for (_, method, quantization, kind), found in groups:
            lines.append(_line(f"  {method}", quantization, _KINDS.get(kind, kind), *_cells(found)))
    if rows:
        lines += ["", "rows: e, and * where the measurement is outside the band"]
        for item in accuracy.scores:
            mark = " " if item.is_inside else "*"
            lines += wrapped(f"{item.error_ratio:+8.2%} {mark} {item.row.id}", width, hanging=11)
    return "\n".join([*lines, *_ending(accuracy, width)]) + "\n"


def render_accuracy_markdown(accuracy: Accuracy) -> str:
    """The table of the README."""
    heads = ("source", "method", "quantisation", "kind", *_HEADS)
    lines = [_cells_line(heads), _cells_line([*["---"] * 4, *["---:"] * len(_HEADS)])]
    for name, found in accuracy.families.items():
        lines.append(_cells_line(("**all**", "", "", name, *_cells(found))))
    for key, found in accuracy.groups.items():
        lines.append(_cells_line((*key[:3], _KINDS.get(key[3], key[3]), *_cells(found))))
    return "\n".join(lines) + "\n"


def _ending(accuracy: Accuracy, width: int) -> Iterator[str]:
    if accuracy.unanswered:
        yield ""
        yield f"{len(accuracy.unanswered)} rows have no answer:"
        for item in accuracy.unanswered:
            yield from wrapped(f"{item.row.id}: {item.message}", width, indent=2, hanging=4)
    yield ""
    if not accuracy.beyond:
        yield "Within tolerance."
        return
    yield "Outside tolerance:"
    for sentence in accuracy.beyond:
        yield from wrapped(sentence, width, indent=2, hanging=4)


def _line(method: str, quantization: str, kind: str, *cells: str) -> str:
    sizes = (4, 7, 7, 8, 8, 8, 7)
    numbers = "".join(f"{cell:>{size}}" for cell, size in zip(cells, sizes, strict=True))
    return f"{method:<12}{quantization:<6}{kind:<14}".rstrip().ljust(31) + numbers


def _cells(found: Statistics) -> tuple[str, ...]:
    errors = (
        found.median_abs_error_ratio,
        found.p95_abs_error_ratio,
        found.worst_under_ratio,
        found.worst_over_ratio,
    )
    return (
        str(found.num_rows),
        *(f"{error:.2%}" if abs(error) < 1 else f"{error:.0%}" for error in errors),
        f"{found.inside_ratio:.1%}",
        f"{found.median_half_width_ratio:.1%}",
    )


def _cells_line(cells: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _row(item: Score) -> dict[str, Any]:
    return {
        "id": item.row.id,
        "source": item.row.source,
        "method": item.method,
        "quantization": item.quantization,
        "kind": item.row.kind.value,
        "measured_bytes": item.row.measured_bytes,
        "predicted_bytes": item.predicted_bytes,
        "low_bytes": item.low_bytes,
        "high_bytes": item.high_bytes,
        "error_ratio": item.error_ratio,
        "inside": item.is_inside,
    }
