"""`nvidia-smi --query-gpu=… --format=csv`, byte for byte, for the fields in `smi_fields.py`.

The rules are read off real captures (drivers 590.48 to 610.62): a comma and a space between cells and no quotes; the
header once, with the canonical field name and its unit, also under `nounits`; MiB rounded up cell by cell; local time;
`[N/A]` for what a GPU does not have.
"""

from __future__ import annotations

from collections.abc import Sequence

from vramplan.errors import UsageError
from vramplan.monitor.faults import LOST, NO_PERMISSION, STALLED, UNKNOWN, NvmlFault
from vramplan.monitor.nvml import Nvml
from vramplan.monitor.sample import Device, Memory, Tick
from vramplan.monitor.smi_fields import ALIASES, FIELDS, Context, Field

DEFAULT_QUERY = "timestamp,index,name,memory.used,memory.free,memory.total,utilization.gpu,temperature.gpu,power.draw"

_FAULT_CELLS = {
    LOST: "[GPU is lost]",
    UNKNOWN: "[Unknown Error]",
    NO_PERMISSION: "[Insufficient Permissions]",
    STALLED: "[Unknown Error]",
    "function_not_found": "[Function Not Found]",
    "reset_required": "[GPU requires reset]",
}


def parse_query(text: str) -> tuple[Field, ...]:
    """The fields of `--query-gpu=timestamp,memory.used,…`; aliases are taken as nvidia-smi takes them.

    Raises:
        UsageError: a field that this program does not know, in nvidia-smi's words.
    """
    fields = []
    for name in (part.strip() for part in text.split(",")):
        field = FIELDS.get(ALIASES.get(name, name))
        if field is None:
            raise UsageError(
                f'Field "{name}" is not a valid field to query', hint="known fields: " + ", ".join(sorted(FIELDS))
            )
        fields.append(field)
    return tuple(fields)


class SmiFormat:
    """Makes rows that nvidia-smi would have written.

    Args:
        fields: in the asked order.
        with_header: False under `noheader`.
        with_units: False under `nounits`; the header keeps its units all the same.
        num_gpus: what `count` says.
        driver_version: what `driver_version` says, None where unknown.
    """

    def __init__(
        self,
        fields: Sequence[Field],
        *,
        with_header: bool = True,
        with_units: bool = True,
        num_gpus: int = 0,
        driver_version: str | None = None,
    ) -> None:
        self._fields = tuple(fields)
        self._with_header = with_header
        self._with_units = with_units
        self.num_gpus = num_gpus
        self.driver_version = driver_version

    def header(self) -> str:
        """The first line without its end; empty under `noheader`."""
        if not self._with_header:
            return ""
        return ", ".join(f"{field.name} [{field.unit}]" if field.unit else field.name for field in self._fields)

    def cells(self, door: Nvml, device: Device, memory: Memory | None, status: str, asked_ns: int) -> tuple[str, ...]:
        """One row's cells; called in the thread that samples, since most fields ask the driver."""
        context = Context(
            door=door,
            device=device,
            memory=memory,
            status=status,
            asked_ns=asked_ns,
            num_gpus=self.num_gpus,
            driver_version=self.driver_version,
        )
        return tuple(self._cell(field, context) for field in self._fields)

    def _cell(self, field: Field, context: Context) -> str:
        try:
            value = field.read(context)
        except NvmlFault as fault:
            value, status = None, fault.status
        else:
            status = context.status if field.needs_memory else "not_supported"
        if value is None:
            return _FAULT_CELLS.get(status, field.absent)
        return f"{value} {field.unit}" if field.unit and self._with_units else value

    def lines(self, tick: Tick) -> list[str]:
        """One line a GPU; MIG instances have no row, as in nvidia-smi."""
        return [", ".join(sample.cells) for sample in tick.samples if sample.cells and sample.device.mig_index is None]
