"""Opens the door to NVML and says, as JSON, everything that it answers: for the contract tests.

Arguments: how many times to ask for memory, and which devices to open again before each time.
"""

from __future__ import annotations

import json
import sys

from vramplan.errors import VramplanError
from vramplan.monitor.faults import NvmlFault
from vramplan.monitor.nvml import Nvml, open_nvml
from vramplan.monitor.sample import Device


def fault(error: NvmlFault) -> dict[str, object]:
    return {"fault": error.status, "code": error.code, "permanent": error.is_permanent}


def look(door: Nvml, device: Device) -> dict[str, object]:
    answer: dict[str, object] = {}
    try:
        memory = door.memory(device)
        answer["memory"] = [memory.total_bytes, memory.used_bytes, memory.free_bytes, memory.reserved_bytes]
    except NvmlFault as error:
        answer["memory"] = fault(error)
    try:
        answer["processes"] = [[process.pid, process.used_bytes] for process in door.processes(device)]
    except NvmlFault as error:
        answer["processes"] = fault(error)
    try:
        answer["gpu_percent"] = int(door.ask(device, "nvmlDeviceGetUtilizationRates").gpu)
    except NvmlFault as error:
        answer["gpu_percent"] = fault(error)
    return answer


def reopen(door: Nvml, device: Device) -> dict[str, object] | None:
    try:
        door.reopen(device)
    except NvmlFault as error:
        return fault(error)
    return None


def main(rounds: int, reopened: bool) -> dict[str, object]:
    try:
        door = open_nvml()
    except VramplanError as error:
        return {"error": error.message, "hint": error.hint, "exit_code": error.exit_code, "type": type(error).__name__}
    try:
        devices = door.devices()
    except NvmlFault as error:
        return {"devices": fault(error)}
    looks = []
    for turn in range(rounds):
        again = {device.label: reopen(door, device) for device in devices} if reopened and turn else {}
        looks.append({"reopened": again, **{device.label: look(door, device) for device in devices}})
    names = [[device.label, device.uuid, device.pci_bus_id, device.name] for device in devices]
    driver = door.driver_version()
    door.close()
    return {"devices": names, "driver": driver, "looks": looks}


print(json.dumps(main(int(sys.argv[1]), sys.argv[2:3] == ["reopen"])))
