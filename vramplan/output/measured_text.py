"""What was measured, beside what estimate and simulate said: phase by phase, with the differences in per cent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vramplan.core.report import MemoryReport
from vramplan.output.explain import wrapped
from vramplan.records.record import Prediction, Record
from vramplan.units import format_bytes

_QUANTITIES = (("allocated", "allocated_bytes"), ("reserved", "reserved_bytes"), ("device", "device_used_bytes"))
_INDENT = "  "
_HEAD = ("phase", "quantity", "measured", "estimate", "off", "simulate", "off")


def render_measured(record: Record, report: MemoryReport | None, *, units: str, width: int) -> str:
    """One table, and what to know about it.

    Args:
        record: what was measured.
        report: the same as a report, for its notes; None where no phase was reached.
        units: GB, GiB or bytes.
        width: columns; long notes are wrapped.
    """
    import textwrap

    title = f"Measured on {record.gpu.name}, in {units}: {record.weights} weights, {_ending(record)}"
    lines = textwrap.wrap(title, width)
    rows = list(_rows(record, units))
    if rows:
        lines += ["", *_phases_table(rows, width)]
    lines.append("")
    facts = [*_facts(record, units), *record.notes]
    if report is not None:
        outcome = record.outcome.replace("_", " ")
        facts += [note for note in report.assumptions if note not in facts and not note.startswith(outcome)]
    for fact in dict.fromkeys(facts):
        lines += textwrap.wrap(f"- {fact}", width, subsequent_indent="  ")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def render_matrix(records: Sequence[Record], *, units: str, width: int) -> str:
    """Each run's peaks, and how far off the predictions are: one line a run where they fit, else one a quantity.

    Args:
        records: of the runs, in their order.
        units: GB, GiB or bytes.
        width: columns.
    """
    rows = []
    for record in records:
        cells = [run_words(record), record.outcome.replace("_", " ")]
        for _, name in _QUANTITIES:
            measured = _peak(record, name)
            cells.append("-" if measured is None else format_bytes(measured, units))
            cells += [_off(measured, _predicted_peak(one, name)) for one in (record.estimate, record.simulate)]
        rows.append(tuple(cells))
    head = ("run", "outcome", *(word for name, _ in _QUANTITIES for word in (name, "est.", "sim.")))
    lines = _table([head, *rows])
    if max(map(len, lines)) > width:
        lines = _stacked_runs(rows, width)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _stacked_runs(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Each run's name and outcome over a line for each quantity; of a run without peaks its outcome is all."""
    table: list[Sequence[str]] = [(_INDENT, "measured", "est.", "sim.")]
    for row in rows:
        numbers = row[2:]
        for index, (name, _) in enumerate(_QUANTITIES):
            table.append((f"{_INDENT}{name}", *numbers[3 * index : 3 * index + 3]))
    head, rule, *body = _table(table, num_texts=1)
    lines = [head, rule]
    for index, row in enumerate(rows):
        lines += wrapped(f"{row[0]}: {row[1]}", width, hanging=4)
        if any(cell != "-" for cell in row[2:]):
            lines += body[3 * index : 3 * index + 3]
    return lines


def _phases_table(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """One line for each quantity of each phase; the phase on a line of its own where the width asks for it."""
    lines = _table([_HEAD, *rows])
    if max(map(len, lines)) <= width:
        return lines
    head, rule, *body = _table([_HEAD[1:], *(row[1:] for row in rows)], num_texts=1)
    lines = [head, rule]
    for row, line in zip(rows, body, strict=True):
        lines += [row[0], line] if row[0] else [line]
    return lines


def run_words(record: Record) -> str:
    """A run in a few words: models, precision, method, sizes."""
    run = record.run
    models = [str(run[key]).rpartition("/")[2] for key in ("model", "run", "teacher") if run.get(key)]
    words = [*models[:1], *_precision(run), run.get("method") or "inference", run.get("tuning")]
    for key, letter in (("per_device_batch_size", "b"), ("context", "c"), ("max_seq_length", "s")):
        if run.get(key):
            words.append(f"{letter}{run[key]}")
    if run.get("gradient_checkpointing"):
        words.append("ckpt")
    if record.allocator.conf:
        words.append(record.allocator.conf)
    return " ".join(str(word) for word in words if word)


def _precision(run: Mapping[str, object]) -> list[str]:
    quantization = run.get("quantization")
    if quantization in (None, "none"):
        return [str(run.get("dtype") or "")]
    return [f"{quantization}-dq" if run.get("double_quant") else str(quantization)]


def _rows(record: Record, units: str) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for phase in record.phases:
        for word, name in _QUANTITIES:
            measured = record.own_device_bytes(phase) if name == "device_used_bytes" else getattr(phase, name)
            cells = [phase.name if word == "allocated" else "", word]
            cells.append("-" if measured is None else format_bytes(measured, units))
            for prediction in (record.estimate, record.simulate):
                predicted = _predicted(prediction, phase.name, name)
                cells.append("-" if predicted is None else format_bytes(predicted, units))
                cells.append(_off(measured, predicted))
            rows.append(tuple(cells))
    return rows


def _facts(record: Record, units: str) -> list[str]:
    facts = []
    failure = record.out_of_memory
    if failure is not None:
        asked = "an unknown size" if failure.requested_bytes is None else _size(failure.requested_bytes, units)
        held, reserved = _size(failure.allocated_bytes, units), _size(failure.reserved_bytes, units)
        facts.append(f"out of memory in {failure.phase}: {asked} asked for, with {held} allocated, {reserved} reserved")
        if failure.snapshot is not None:
            facts.append(f"its memory snapshot is {failure.snapshot}")
    elif record.outcome != "done":
        facts.append(f"{record.outcome.replace('_', ' ')} in {record.stopped_in or 'no phase'}: {record.message}")
    if record.gpu.baseline_used_bytes is not None:
        facts.append(
            f"the card had {_size(record.gpu.baseline_used_bytes, units)} in use before; an empty context takes "
            f"{_size(record.gpu.context_bytes, units)}; `device` leaves out what was in use before"
        )
    retries = sum(phase.num_alloc_retries or 0 for phase in record.phases)
    if retries:
        facts.append(f"the allocator emptied its cache {retries} times to find room")
    if record.after_empty_cache is not None:
        left = record.after_empty_cache
        facts.append(
            f"after torch.cuda.empty_cache(): {_size(left.allocated_bytes, units)} allocated, "
            f"{_size(left.reserved_bytes, units)} reserved"
        )
    seconds = sum(phase.seconds or 0.0 for phase in record.phases)
    facts.append(f"{seconds:.1f} s in its phases; record {record.id}")
    return facts


def _ending(record: Record) -> str:
    return "every phase ended" if record.outcome == "done" else record.outcome.replace("_", " ")


def _size(num_bytes: int | None, units: str) -> str:
    return "an unknown size" if num_bytes is None else f"{format_bytes(num_bytes, units)} {units}"


def _predicted(prediction: Prediction | None, phase: str, name: str) -> int | None:
    if prediction is None:
        return None
    return next((getattr(one, name) for one in prediction.phases if one.name == phase), None)


def _predicted_peak(prediction: Prediction | None, name: str) -> int | None:
    return None if prediction is None else max((getattr(one, name) for one in prediction.phases), default=None)


def _peak(record: Record, name: str) -> int | None:
    if record.outcome != "done":
        return None
    values = [
        record.own_device_bytes(phase) if name == "device_used_bytes" else getattr(phase, name)
        for phase in record.phases
    ]
    return max((value for value in values if value is not None), default=None)


def _off(measured: int | None, predicted: int | None) -> str:
    if not measured or predicted is None:
        return "-"
    return f"{predicted / measured - 1:+.1%}"


def _table(rows: Sequence[Sequence[str]], *, num_texts: int = 2) -> list[str]:
    """Columns as wide as their longest cell; the first ones, texts, to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for number, row in enumerate(rows):
        cells = [
            cell.ljust(widths[column]) if column < num_texts else cell.rjust(widths[column])
            for column, cell in enumerate(row)
        ]
        lines.append("  ".join(cells))
        if number == 0:
            lines.append("  ".join("-" * width for width in widths))
    return lines
