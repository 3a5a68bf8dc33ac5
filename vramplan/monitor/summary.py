"""What a run came to, kept up to date tick by tick in a few numbers, so that it costs nothing to keep for a week."""

from __future__ import annotations

from dataclasses import dataclass, field

from vramplan.monitor.faults import OK
from vramplan.monitor.native_format import utc_text
from vramplan.monitor.prediction import Prediction
from vramplan.monitor.sample import Device, Tick
from vramplan.units import format_bytes


@dataclass(slots=True, kw_only=True)
class GpuSummary:
    """One GPU's run so far; None where no sample told."""

    device: Device
    first_used_bytes: int | None = None
    peak_used_bytes: int | None = None
    peak_time_ns: int = 0
    peak_elapsed_seconds: float = 0.0
    peak_watched_bytes: int | None = None
    capacity_bytes: int | None = None
    reserved_bytes: int | None = None
    is_version_1: bool = False
    num_samples: int = 0
    last_status: str = OK
    bad_samples: dict[str, int] = field(default_factory=dict)

    @property
    def usable_bytes(self) -> int | None:
        """What CUDA can have of it: the total without the driver's reserve."""
        return None if self.capacity_bytes is None else self.capacity_bytes - (self.reserved_bytes or 0)

    @property
    def margin_bytes(self) -> int | None:
        """What was left at the peak."""
        usable, peak = self.usable_bytes, self.peak_used_bytes
        return None if usable is None or peak is None else usable - peak


class RunSummary:
    """Peaks, samples and gaps of a run."""

    def __init__(self, interval_seconds: float) -> None:
        self.interval_seconds = interval_seconds
        self.gpus: dict[Device, GpuSummary] = {}
        self.num_ticks = 0
        self.num_gaps = 0
        self.longest_gap_seconds = 0.0
        self.num_clock_jumps = 0
        self._last: Tick | None = None

    @property
    def highest(self) -> GpuSummary | None:
        """The GPU that held most."""
        known = [gpu for gpu in self.gpus.values() if gpu.peak_used_bytes is not None]
        return max(known, key=lambda gpu: gpu.peak_used_bytes or 0, default=None)

    def add(self, tick: Tick) -> None:
        """Count one tick."""
        last, self._last = self._last, tick
        self.num_ticks += 1
        if last is not None:
            passed = tick.elapsed_seconds - last.elapsed_seconds
            if tick.number > last.number + 1 or passed > 2 * self.interval_seconds:
                self.num_gaps += 1
                self.longest_gap_seconds = max(self.longest_gap_seconds, passed)
            if abs((tick.time_ns - last.time_ns) / 1e9 - passed) > 1.0:
                self.num_clock_jumps += 1
        for sample in tick.samples:
            gpu = self.gpus.get(sample.device)
            if gpu is None:
                gpu = self.gpus[sample.device] = GpuSummary(device=sample.device)
            gpu.last_status = sample.status
            if sample.status != OK:
                gpu.bad_samples[sample.status] = gpu.bad_samples.get(sample.status, 0) + 1
            if sample.watched_bytes is not None:
                gpu.peak_watched_bytes = max(gpu.peak_watched_bytes or 0, sample.watched_bytes)
            memory = sample.memory
            if memory is None:
                continue
            gpu.num_samples += 1
            gpu.capacity_bytes, gpu.reserved_bytes = memory.total_bytes, memory.reserved_bytes
            gpu.is_version_1 = memory.reserved_bytes is None
            if gpu.first_used_bytes is None:
                gpu.first_used_bytes = memory.used_bytes
            if gpu.peak_used_bytes is None or memory.used_bytes > gpu.peak_used_bytes:
                gpu.peak_used_bytes = memory.used_bytes
                gpu.peak_time_ns, gpu.peak_elapsed_seconds = tick.time_ns, tick.elapsed_seconds


def _gpu_lines(gpu: GpuSummary, units: str, watched: bool) -> list[str]:
    def size(num_bytes: int) -> str:
        return f"{format_bytes(num_bytes, units)} {units}" if units != "bytes" else f"{num_bytes:,} bytes"

    name = f"GPU {gpu.device.label}" + (f" ({gpu.device.name})" if gpu.device.name else "")
    if gpu.peak_used_bytes is None or gpu.usable_bytes is None or gpu.margin_bytes is None:
        return [f"{name}: no memory reading ({gpu.last_status})"]
    lines = [
        f"{name}: peak {size(gpu.peak_used_bytes)} used at {utc_text(gpu.peak_time_ns)}"
        f" ({gpu.peak_elapsed_seconds:.1f} s in), {size(gpu.margin_bytes)} below its {size(gpu.usable_bytes)}"
    ]
    if gpu.is_version_1:
        lines.append("  used includes what the driver keeps for itself: this driver answers version 1 only")
    if gpu.peak_watched_bytes is not None:
        lines.append(f"  the watched processes held {size(gpu.peak_watched_bytes)} at most")
    elif watched:
        above = gpu.peak_used_bytes - (gpu.first_used_bytes or 0)
        lines.append(
            f"  the driver does not say which process holds what: the GPU rose by {size(above)} above its first sample"
        )
    if gpu.bad_samples:
        lines.append("  without a reading: " + ", ".join(f"{n} × {why}" for why, n in sorted(gpu.bad_samples.items())))
    return lines


def prediction_lines(summary: RunSummary, prediction: Prediction, units: str) -> list[str]:
    """How far off the prediction was, held against the GPU that held most."""

    def size(num_bytes: int) -> str:
        return f"{format_bytes(num_bytes, units)} {units}" if units != "bytes" else f"{num_bytes:,} bytes"

    highest = summary.highest
    if highest is None or highest.peak_used_bytes is None:
        return [f"predicted {size(prediction.peak_bytes)} ({prediction.how}); nothing was measured to hold it against"]
    off = prediction.peak_bytes - highest.peak_used_bytes
    ratio = off / highest.peak_used_bytes if highest.peak_used_bytes else 0.0
    side = "above" if off >= 0 else "below"
    lines = [
        f"predicted {size(prediction.peak_bytes)} ({prediction.how}, {prediction.phase}):"
        f" {size(abs(off))} ({abs(ratio):.1%}) {side} the measured peak of GPU {highest.device.label}"
    ]
    low, high = prediction.low_bytes, prediction.high_bytes
    if low is not None and high is not None:
        inside = "inside" if low <= highest.peak_used_bytes <= high else "outside"
        lines.append(f"  the measured peak is {inside} the band {size(low)} to {size(high)}")
    return lines


def summary_lines(
    summary: RunSummary, *, units: str = "GB", watched: bool = False, prediction: Prediction | None = None
) -> list[str]:
    """The closing lines for a person."""
    lines = [line for gpu in summary.gpus.values() for line in _gpu_lines(gpu, units, watched)]
    counted = f"{summary.num_ticks} sample" + ("" if summary.num_ticks == 1 else "s")
    text = f"{counted}, one every {summary.interval_seconds:g} s (a shorter spike is not seen)"
    if summary.num_gaps:
        text += f"; {summary.num_gaps} gaps, the longest {summary.longest_gap_seconds:.1f} s"
    else:
        text += "; no gaps"
    if summary.num_clock_jumps:
        text += f"; the wall clock was set {summary.num_clock_jumps} times"
    lines.append(text)
    if prediction is not None:
        lines.extend(prediction_lines(summary, prediction, units))
    return lines
