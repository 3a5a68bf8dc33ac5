"""What only a simulation knows: the largest tensors at its peak, and where an allocator of limited size throws."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from vramplan.core.report import LiveTensors, OutOfRoom
from vramplan.units import format_bytes

MOST_LINES = 10


def out_of_room_sentence(failure: OutOfRoom, units: str) -> str:
    """One sentence: where the allocator throws, for how much, and what is taken then."""
    asked, taken, held, capacity = (
        format_bytes(num_bytes, units)
        for num_bytes in (
            failure.requested_bytes,
            failure.allocated_bytes,
            failure.reserved_bytes,
            failure.capacity_bytes,
        )
    )
    return (
        f"CUDA out of memory in {failure.phase}: {asked} {units} are asked for while {taken} {units} are allocated and "
        f"{held} {units} reserved of the {capacity} {units} that the allocator can have"
    )


def render_live(title: str, tensors: Sequence[LiveTensors], *, units: str, width: int) -> str:
    """The largest groups, one or two lines each."""
    lines = [title]
    for tensor in tensors[:MOST_LINES]:
        size = format_bytes(tensor.num_bytes * tensor.count, units)
        what = f"{tensor.count:,} x [{', '.join(map(str, tensor.shape))}] {tensor.dtype}".rstrip()
        where = " ".join(filter(None, (tensor.module, tensor.operation, tensor.source and f"({tensor.source})")))
        text = f"{size:>10} {units}  {what}{f', {where}' if where else ''}"
        lines += textwrap.wrap(text, width, initial_indent="", subsequent_indent=" " * 15) or [text]
    return "\n".join(lines) + "\n"


def render_timeline(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """CSV lines of a timeline."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for row in (header, *rows):
        writer.writerow(row)
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
