"""The fields of `nvidia-smi --query-gpu` that this program answers, each read through the door.

Names, units and spellings are those of the captures (driver 590.48.01 on an H100 and nine others); aliases are those of
`nvidia-smi --help-query-gpu`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vramplan.monitor.faults import NvmlFault
from vramplan.monitor.nvml import Nvml
from vramplan.monitor.sample import Device, Memory
from vramplan.units import MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a field may read."""

    door: Nvml
    device: Device
    memory: Memory | None
    status: str
    asked_ns: int
    num_gpus: int
    driver_version: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One column.

    Args:
        name: the canonical name.
        unit: what the header and the value say, empty where neither does.
        read: gives the value's text without its unit, None where there is none; may raise `NvmlFault`.
        absent: what nvidia-smi prints for None.
        needs_memory: True where the value comes from the tick's memory call.
    """

    name: str
    unit: str
    read: Callable[[Context], str | None]
    absent: str = "[N/A]"
    needs_memory: bool = False


def mib_text(num_bytes: int) -> str:
    """Mebibytes, rounded up as nvidia-smi does, each cell on its own: 501481472 bytes (478.25 MiB) are `479`."""
    return str(-(-num_bytes // MiB))


def local_time_text(time_ns: int) -> str:
    """`2026/07/03 22:10:46.109`: local time without its zone."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{time.strftime('%Y/%m/%d %H:%M:%S', time.localtime(seconds))}.{rest // 1_000_000:03d}"


def _asked(function: str, *args: Any, text: Callable[[Any], str] = str) -> Callable[[Context], str | None]:
    def read(context: Context) -> str | None:
        return text(context.door.ask(context.device, function, *args))

    return read


def _memory(name: str) -> Callable[[Context], str | None]:
    def read(context: Context) -> str | None:
        num_bytes = None if context.memory is None else getattr(context.memory, f"{name}_bytes")
        return None if num_bytes is None else mib_text(num_bytes)

    return read


def _value(function: str, constant: str, text: Callable[[Any], str]) -> Callable[[Context], str | None]:
    """One entry of nvmlDeviceGetFieldValues."""

    def read(context: Context) -> str | None:
        constants = [context.door.constant(constant)]
        answer = context.door.ask(context.device, function, constants)[0]
        if answer.nvmlReturn:
            raise NvmlFault(int(answer.nvmlReturn), constant)
        return text(answer.value.uiVal)

    return read


def _pci(text: Callable[[Any], str]) -> Callable[[Context], str | None]:
    return _asked("nvmlDeviceGetPciInfo", text=text)


def _decoded(value: Any) -> str:
    return str(value.decode(errors="replace") if isinstance(value, bytes) else value)


def _switch(value: int) -> str:
    return "Enabled" if value else "Disabled"


def _watts(milliwatts: int) -> str:
    return f"{milliwatts / 1000:.2f}"


_COMPUTE_MODES = ("Default", "Exclusive_Thread", "Prohibited", "Exclusive_Process")
_FIELD_VALUES = "nvmlDeviceGetFieldValues"
# nvml.h, nvmlClocksEventReason…
_EVENT_REASONS = {
    "gpu_idle": 0x1,
    "applications_clocks_setting": 0x2,
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal_slowdown": 0x20,
    "hw_thermal_slowdown": 0x40,
    "hw_power_brake_slowdown": 0x80,
}


def _fields() -> list[Field]:
    fields = [
        Field(name="timestamp", unit="", read=lambda c: local_time_text(c.asked_ns)),
        Field(name="driver_version", unit="", read=lambda c: c.driver_version),
        Field(name="count", unit="", read=lambda c: str(c.num_gpus)),
        Field(name="name", unit="", read=lambda c: c.device.name or None),
        Field(name="serial", unit="", read=_asked("nvmlDeviceGetSerial", text=_decoded)),
        Field(name="uuid", unit="", read=lambda c: c.device.uuid or None),
        Field(name="pci.bus_id", unit="", read=lambda c: c.device.pci_bus_id or None),
        Field(name="pci.domain", unit="", read=_pci(lambda p: f"0x{p.domain:04X}")),
        Field(name="pci.bus", unit="", read=_pci(lambda p: f"0x{p.bus:02X}")),
        Field(name="pci.device", unit="", read=_pci(lambda p: f"0x{p.device:02X}")),
        Field(name="pci.device_id", unit="", read=_pci(lambda p: f"0x{p.pciDeviceId:08X}")),
        Field(name="pci.sub_device_id", unit="", read=_pci(lambda p: f"0x{p.pciSubSystemId:08X}")),
        Field(name="pcie.link.gen.current", unit="", read=_asked("nvmlDeviceGetCurrPcieLinkGeneration")),
        Field(name="pcie.link.gen.gpucurrent", unit="", read=_asked("nvmlDeviceGetCurrPcieLinkGeneration")),
        Field(name="pcie.link.gen.max", unit="", read=_asked("nvmlDeviceGetMaxPcieLinkGeneration")),
        Field(name="pcie.link.gen.gpumax", unit="", read=_asked("nvmlDeviceGetGpuMaxPcieLinkGeneration")),
        Field(name="pcie.link.width.current", unit="", read=_asked("nvmlDeviceGetCurrPcieLinkWidth")),
        Field(name="pcie.link.width.max", unit="", read=_asked("nvmlDeviceGetMaxPcieLinkWidth")),
        Field(name="index", unit="", read=lambda c: str(c.device.index)),
        Field(name="display_active", unit="", read=_asked("nvmlDeviceGetDisplayActive", text=_switch)),
        Field(name="persistence_mode", unit="", read=_asked("nvmlDeviceGetPersistenceMode", text=_switch)),
        Field(name="accounting.mode", unit="", read=_asked("nvmlDeviceGetAccountingMode", text=_switch)),
        Field(name="vbios_version", unit="", read=_asked("nvmlDeviceGetVbiosVersion", text=_decoded)),
        Field(name="fan.speed", unit="%", read=_asked("nvmlDeviceGetFanSpeed")),
        Field(name="pstate", unit="", read=_asked("nvmlDeviceGetPerformanceState", text=lambda p: f"P{p}")),
        Field(
            name="clocks_event_reasons.active",
            unit="",
            read=_asked("nvmlDeviceGetCurrentClocksEventReasons", text=lambda bits: f"0x{bits:016X}"),
        ),
        Field(name="compute_mode", unit="", read=_asked("nvmlDeviceGetComputeMode", text=lambda m: _COMPUTE_MODES[m])),
        Field(
            name="compute_cap",
            unit="",
            read=_asked("nvmlDeviceGetCudaComputeCapability", text=lambda pair: f"{pair[0]}.{pair[1]}"),
        ),
        Field(
            name="utilization.gpu", unit="%", read=_asked("nvmlDeviceGetUtilizationRates", text=lambda u: str(u.gpu))
        ),
        Field(
            name="utilization.memory",
            unit="%",
            read=_asked("nvmlDeviceGetUtilizationRates", text=lambda u: str(u.memory)),
        ),
        Field(name="temperature.gpu", unit="", read=_asked("nvmlDeviceGetTemperature", "NVML_TEMPERATURE_GPU")),
        Field(
            name="temperature.memory",
            unit="",
            read=_value(_FIELD_VALUES, "NVML_FI_DEV_MEMORY_TEMP", str),
            absent="N/A",  # bare, unlike every other field here
        ),
        Field(name="power.draw", unit="W", read=_asked("nvmlDeviceGetPowerUsage", text=_watts)),
        Field(name="power.draw.average", unit="W", read=_value(_FIELD_VALUES, "NVML_FI_DEV_POWER_AVERAGE", _watts)),
        Field(name="power.draw.instant", unit="W", read=_value(_FIELD_VALUES, "NVML_FI_DEV_POWER_INSTANT", _watts)),
        Field(name="power.limit", unit="W", read=_asked("nvmlDeviceGetPowerManagementLimit", text=_watts)),
        Field(name="enforced.power.limit", unit="W", read=_asked("nvmlDeviceGetEnforcedPowerLimit", text=_watts)),
        Field(
            name="power.default_limit", unit="W", read=_asked("nvmlDeviceGetPowerManagementDefaultLimit", text=_watts)
        ),
    ]
    for name in ("total", "reserved", "used", "free"):
        fields.append(Field(name=f"memory.{name}", unit="MiB", read=_memory(name), needs_memory=True))
    for name, code in (("encoder", "Encoder"), ("decoder", "Decoder"), ("jpeg", "Jpg"), ("ofa", "Ofa")):
        read = _asked(f"nvmlDeviceGet{code}Utilization", text=lambda pair: str(pair[0]))
        fields.append(Field(name=f"utilization.{name}", unit="%", read=read))
    for number, name in enumerate(("min", "max")):
        read = _asked("nvmlDeviceGetPowerManagementLimitConstraints", text=lambda p, n=number: _watts(p[n]))  # type: ignore[misc]
        fields.append(Field(name=f"power.{name}_limit", unit="W", read=read))
    for name, clock in (("graphics", "GRAPHICS"), ("sm", "SM"), ("memory", "MEM"), ("video", "VIDEO")):
        read = _asked("nvmlDeviceGetClockInfo", f"NVML_CLOCK_{clock}")
        fields.append(Field(name=f"clocks.current.{name}", unit="MHz", read=read))
        if name != "video":
            read = _asked("nvmlDeviceGetMaxClockInfo", f"NVML_CLOCK_{clock}")
            fields.append(Field(name=f"clocks.max.{name}", unit="MHz", read=read))
    for name, bit in _EVENT_REASONS.items():
        read = _asked(
            "nvmlDeviceGetCurrentClocksEventReasons",
            text=lambda bits, b=bit: "Active" if bits & b else "Not Active",  # type: ignore[misc]
        )
        fields.append(Field(name=f"clocks_event_reasons.{name}", unit="", read=read))
    for number, when in enumerate(("current", "pending")):
        for name, function in (("mig.mode", "nvmlDeviceGetMigMode"), ("ecc.mode", "nvmlDeviceGetEccMode")):
            read = _asked(function, text=lambda pair, n=number: _switch(pair[n]))  # type: ignore[misc]
            fields.append(Field(name=f"{name}.{when}", unit="", read=read))
    return fields


FIELDS: dict[str, Field] = {field.name: field for field in _fields()}
ALIASES = {
    "gpu_name": "name",
    "gpu_serial": "serial",
    "gpu_uuid": "uuid",
    "gpu_bus_id": "pci.bus_id",
    "clocks_throttle_reasons.active": "clocks_event_reasons.active",
    **{f"clocks_throttle_reasons.{name}": f"clocks_event_reasons.{name}" for name in _EVENT_REASONS},
    "gpu.power.current_limit": "enforced.power.limit",
    "gpu.power.default_limit": "power.default_limit",
    "gpu.power.draw.average": "power.draw.average",
    "gpu.power.draw.instant": "power.draw.instant",
    "gpu.power.requested_limit": "power.limit",
    "gpu.power.max_limit": "power.max_limit",
    "gpu.power.min_limit": "power.min_limit",
    "clocks.gr": "clocks.current.graphics",
    "clocks.sm": "clocks.current.sm",
    "clocks.mem": "clocks.current.memory",
    "clocks.video": "clocks.current.video",
    "clocks.max.gr": "clocks.max.graphics",
    "clocks.max.mem": "clocks.max.memory",
}
