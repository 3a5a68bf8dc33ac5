"""Our own CSV: snake_case names with the unit in them, an empty cell for what is not known, one row per GPU and tick.

`tick` counts intervals, so a jump in it is a gap. `elapsed_seconds` is monotonic: it starts again at 0 where a file was
resumed, and a clock that is set does not bend it. `process_bytes` is `pid=bytes` for each process, separated by spaces,
on ticks that asked for the list. `predicted_*` repeat what `--estimate` said, so that the log alone draws the line.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone

from vramplan.monitor.prediction import Prediction
from vramplan.monitor.sample import Device, GpuSample, Tick

COLUMNS = (
    "time_utc",
    "elapsed_seconds",
    "tick",
    "gpu_index",
    "cuda_ordinal",
    "gpu_uuid",
    "pci_bus_id",
    "gpu_name",
    "used_bytes",
    "free_bytes",
    "reserved_bytes",
    "total_bytes",
    "gpu_utilization_ratio",
    "temperature_celsius",
    "power_watts",
    "watched_bytes",
    "process_bytes",
    "predicted_peak_bytes",
    "predicted_low_bytes",
    "predicted_high_bytes",
    "status",
)


def utc_text(time_ns: int) -> str:
    """`2026-11-21T19:02:11.123Z`."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, tz=timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest // 1_000_000:03d}Z"


def _quoted(text: str) -> str:
    """A cell that may hold anything, as RFC 4180 has it; line ends become spaces so that a row is one line."""
    text = " ".join(text.split())
    return '"' + text.replace('"', '""') + '"' if "," in text or '"' in text else text


def _cell(value: int | None) -> str:
    return "" if value is None else str(value)


class NativeFormat:
    """Writes ticks as native CSV lines.

    Args:
        ordinals: CUDA's number of each device that is known to have one.
        prediction: what `--estimate` expects, or None.
    """

    def __init__(self, ordinals: Mapping[Device, int], prediction: Prediction | None) -> None:
        self._prefixes: dict[Device, str] = {}
        self._ordinals = ordinals
        if prediction is None:
            self._predicted = ",,"
        else:
            low, high = _cell(prediction.low_bytes), _cell(prediction.high_bytes)
            self._predicted = f"{prediction.peak_bytes},{low},{high}"

    def header(self) -> str:
        """The first line, without its end."""
        return ",".join(COLUMNS)

    def lines(self, tick: Tick) -> list[str]:
        """One line a GPU, without line ends."""
        start = f"{utc_text(tick.time_ns)},{tick.elapsed_seconds:.3f},{tick.number},"
        return [start + self._line(sample) for sample in tick.samples]

    def empty_line(self, time_ns: int, status: str) -> str:
        """The only row of a log without a GPU: when, and why."""
        row = dict.fromkeys(COLUMNS, "")
        row.update(time_utc=utc_text(time_ns), elapsed_seconds="0.000", tick="0", status=status)
        return ",".join(row.values())

    def _line(self, sample: GpuSample) -> str:
        device, memory = sample.device, sample.memory
        prefix = self._prefixes.get(device)
        if prefix is None:
            cells = (device.label, _cell(self._ordinals.get(device)), device.uuid, device.pci_bus_id, device.name)
            prefix = self._prefixes[device] = ",".join(map(_quoted, cells))
        sizes = (
            ",,,"
            if memory is None
            else f"{memory.used_bytes},{memory.free_bytes},{_cell(memory.reserved_bytes)},{memory.total_bytes}"
        )
        busy = "" if sample.gpu_percent is None else f"{sample.gpu_percent / 100:.2f}"
        power = "" if sample.power_milliwatts is None else f"{sample.power_milliwatts / 1000:.2f}"
        listed = " ".join(f"{p.pid}={_cell(p.used_bytes)}" for p in sample.processes or ())
        return (
            f"{prefix},{sizes},{busy},{_cell(sample.temperature_celsius)},{power},{_cell(sample.watched_bytes)},"
            f"{listed},{self._predicted},{sample.status}"
        )
