"""The same samples for Prometheus, under dcgm-exporter's names where they mean the same.

`DCGM_FI_DEV_FB_USED`, `_FB_FREE` and `_FB_RESERVED` are mebibytes, `_GPU_UTIL` percent, `_GPU_TEMP` degrees Celsius
and `_POWER_USAGE` watts, with dcgm-exporter's labels `gpu`, `UUID`, `pci_bus_id`, `device`, `modelName`, `Hostname`
and, for a MIG instance, `GPU_I_ID`. What DCGM does not have is called `vramplan_…`, in bytes. A value that the driver
did not give is absent, never zero.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from vramplan.errors import UsageError
from vramplan.monitor.faults import OK
from vramplan.monitor.prediction import Prediction
from vramplan.monitor.sample import Device, GpuSample, Tick
from vramplan.units import MiB

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily

LABELS = ("gpu", "UUID", "pci_bus_id", "device", "modelName", "Hostname", "GPU_I_ID")
_GAUGES = {
    "DCGM_FI_DEV_FB_USED": "Framebuffer memory used (in MiB).",
    "DCGM_FI_DEV_FB_FREE": "Framebuffer memory free (in MiB).",
    "DCGM_FI_DEV_FB_RESERVED": "Framebuffer memory reserved by the driver (in MiB).",
    "DCGM_FI_DEV_FB_TOTAL": "Framebuffer memory in all (in MiB).",
    "DCGM_FI_DEV_GPU_UTIL": "GPU utilization (in %).",
    "DCGM_FI_DEV_GPU_TEMP": "GPU temperature (in C).",
    "DCGM_FI_DEV_POWER_USAGE": "Power draw (in W).",
    "vramplan_watched_memory_bytes": "Memory held by the watched process tree.",
    "vramplan_peak_used_bytes": "Highest memory used since the logger started.",
    "vramplan_last_sample_ok": "1 if the last sample of this GPU gave its memory, 0 if it did not.",
}


def parse_address(text: str) -> tuple[str, int]:
    """(address, port) of `9400`, `:9400`, `127.0.0.1:9400` or `[::1]:9400`; loopback where no address is given.

    Raises:
        UsageError: no port from 1 to 65535.
    """
    address, _, port = text.rpartition(":")
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"--prometheus {text} names no port", hint="write 9400 or 127.0.0.1:9400")
    return address.strip("[]") or "127.0.0.1", int(port)


class Collector:
    """Holds the last tick and turns it into metric families when scraped."""

    def __init__(self, prediction: Prediction | None, family: Callable[..., GaugeMetricFamily]) -> None:
        self._prediction = prediction
        self._family = family
        self._host = socket.gethostname()
        self._last: Tick | None = None
        self._peaks: dict[Device, int] = {}
        self._slow: dict[Device, dict[str, float]] = {}

    def update(self, tick: Tick) -> None:
        """Take a tick. What is asked for at a slower pace keeps its last value until it is asked for again."""
        for sample in tick.samples:
            if sample.memory is not None:
                self._peaks[sample.device] = max(self._peaks.get(sample.device, 0), sample.memory.used_bytes)
            slow = self._slow.setdefault(sample.device, {})
            if sample.status != OK:
                slow.clear()
            for name, value in _slow_values(sample).items():
                if value is not None:
                    slow[name] = value
        self._last = tick

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What prometheus_client asks for at every scrape."""
        tick = self._last
        if tick is None:
            return
        families = {name: self._family(name, text, labels=LABELS) for name, text in _GAUGES.items()}
        for sample in tick.samples:
            labels = self._labels(sample.device)
            for name, value in self._values(sample).items():
                if value is not None:
                    families[name].add_metric(labels, value)
        yield from families.values()
        if self._prediction is not None:
            family = self._family("vramplan_predicted_peak_bytes", "Peak that --estimate expects.", labels=("band",))
            for band in ("low", "peak", "high"):
                value = getattr(self._prediction, f"{band}_bytes")
                if value is not None:
                    family.add_metric([band], value)
            yield family

    def _labels(self, device: Device) -> list[str]:
        instance = "" if device.mig_index is None else str(device.mig_index)
        number = str(device.index)
        return [number, device.uuid, device.pci_bus_id, f"nvidia{number}", device.name, self._host, instance]

    def _values(self, sample: GpuSample) -> dict[str, float | None]:
        values: dict[str, float | None] = dict(self._slow.get(sample.device, {}))
        values["vramplan_peak_used_bytes"] = self._peaks.get(sample.device)
        values["vramplan_last_sample_ok"] = float(sample.memory is not None)
        memory = sample.memory
        if memory is not None:
            reserved = memory.reserved_bytes
            values["DCGM_FI_DEV_FB_USED"] = memory.used_bytes // MiB
            values["DCGM_FI_DEV_FB_FREE"] = memory.free_bytes // MiB
            values["DCGM_FI_DEV_FB_TOTAL"] = memory.total_bytes // MiB
            values["DCGM_FI_DEV_FB_RESERVED"] = None if reserved is None else reserved // MiB
        return values


def _slow_values(sample: GpuSample) -> dict[str, float | None]:
    power = sample.power_milliwatts
    return {
        "DCGM_FI_DEV_GPU_UTIL": sample.gpu_percent,
        "DCGM_FI_DEV_GPU_TEMP": sample.temperature_celsius,
        "DCGM_FI_DEV_POWER_USAGE": None if power is None else power / 1000,
        "vramplan_watched_memory_bytes": sample.watched_bytes,
    }


def serve(text: str, prediction: Prediction | None) -> Callable[[Tick], None]:
    """Serve at `[ADDRESS:]PORT` from a thread of its own; the answer takes each tick.

    Raises:
        UsageError: prometheus_client is missing, or the address cannot be had.
    """
    address, port = parse_address(text)
    try:
        from prometheus_client import start_http_server
        from prometheus_client.core import CollectorRegistry, GaugeMetricFamily
    except ImportError:
        raise UsageError("--prometheus needs prometheus_client", hint="pip install 'vramplan[prometheus]'") from None
    collector = Collector(prediction, GaugeMetricFamily)
    registry: Any = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    try:
        start_http_server(port, addr=address, registry=registry)
    except OSError as error:
        raise UsageError(f"{address}:{port} cannot be served at ({error.strerror})") from None
    return collector.update
