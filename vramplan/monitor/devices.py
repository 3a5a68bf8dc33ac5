"""Which GPUs are meant: `--gpu` selectors, and CUDA's own numbering beside NVML's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vramplan.errors import UsageError
from vramplan.monitor.sample import Device


def _pci_key(text: str) -> tuple[int, int, int] | None:
    """(domain, bus, device) of `00000000:0C:00.0`, `0000:0c:00.0` or `0c:00`; None where it is no PCI id."""
    parts = text.split(".")[0].split(":")
    if len(parts) not in (2, 3):
        return None
    try:
        numbers = [int(part, 16) for part in parts]
    except ValueError:
        return None
    return (0, numbers[0], numbers[1]) if len(parts) == 2 else (numbers[0], numbers[1], numbers[2])


def _matches(device: Device, selector: str) -> bool:
    if selector.upper().startswith(("GPU-", "MIG-")):
        return bool(device.uuid) and device.uuid.lower().startswith(selector.lower())
    if selector == device.label:
        return True
    is_pci = "." in selector or selector.count(":") == 2 or (":" in selector and len(selector) >= 4)
    return is_pci and device.mig_index is None and _pci_key(selector) == _pci_key(device.pci_bus_id)


def select_devices(devices: Sequence[Device], selectors: Sequence[str]) -> tuple[Device, ...]:
    """The devices that `--gpu` names, in NVML's order; all of them where there is no selector.

    A selector is an index (`0`), a MIG instance (`0:1`), a UUID or its beginning, or a PCI bus id; several may be
    joined with commas. A GPU's index does not bring its MIG instances along.

    Raises:
        UsageError: a selector fits no device, or a UUID's beginning fits several.
    """
    wanted = [part.strip() for selector in selectors for part in selector.split(",") if part.strip()]
    if not wanted:
        return tuple(devices)
    chosen: set[Device] = set()
    for selector in wanted:
        found = [device for device in devices if _matches(device, selector)]
        if not found:
            known = ", ".join(f"{device.label} ({device.uuid or 'no UUID'})" for device in devices) or "none"
            raise UsageError(f"no GPU is called {selector!r}", hint=f"this machine has: {known}")
        if len(found) > 1:
            raise UsageError(
                f"{selector!r} fits {len(found)} GPUs",
                hint="give more of the UUID: " + ", ".join(device.uuid for device in found),
            )
        chosen.update(found)
    return tuple(device for device in devices if device in chosen)


def cuda_ordinals(devices: Sequence[Device], environment: Mapping[str, str]) -> dict[Device, int]:
    """CUDA's number of each device that a program started in `environment` would see.

    Only what is certain is in the answer. `CUDA_VISIBLE_DEVICES` names UUIDs or indices; an index counts in CUDA's own
    order, which equals NVML's under `CUDA_DEVICE_ORDER=PCI_BUS_ID` and, by default (fastest first), where all GPUs
    are of one name. The list ends at the first entry that is no device, and a doubled entry makes it empty, as in
    CUDA. With MIG on, CUDA sees the first instance only.
    """
    gpus = [device for device in devices if device.mig_index is None]
    by_index = environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len({gpu.name for gpu in gpus}) <= 1
    text = environment.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return {gpu: number for number, gpu in enumerate(gpus)} if by_index else {}
    ordinals: dict[Device, int] = {}
    for entry in (part.strip() for part in text.split(",")):
        if entry.upper().startswith(("GPU-", "MIG-")):
            found = [device for device in devices if device.uuid.lower().startswith(entry.lower())]
        elif not entry.isdigit() or int(entry) >= len(gpus):
            found = []
        elif by_index:
            found = [gpus[int(entry)]]
        else:
            return {}
        if len(found) != 1:
            break
        if found[0] in ordinals:
            return {}
        ordinals[found[0]] = len(ordinals)
        if found[0].mig_index is not None:
            break
    return ordinals
