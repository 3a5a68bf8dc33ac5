"""The single door to NVML: everything else in the program sees our types and `NvmlFault`, never the binding.

The binding is nvidia-ml-py (imported as `pynvml`). Memory is asked for in version 2, which is what `nvidia-smi` prints;
version 1 counts the driver's own reserve as used. Some systems know version 2 and fail in it (WSL with driver 516.59
answers Unknown), so version 1 is the fallback; which one it is, is settled by the first answer and then kept, because a
change in mid-run would look like a jump of several hundred MiB.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from vramplan.monitor.faults import NoDriverError, NvmlFault, no_driver
from vramplan.monitor.sample import Device, GpuProcess, Memory

_LOOK_ALIKE = "the module `pynvml` that Python finds is not nvidia-ml-py's, or is too old"
_REMOVE_IT = "pip uninstall pynvml nvidia-ml-py3, then pip install --upgrade --force-reinstall nvidia-ml-py"


class Nvml:
    """NVML, started. Not to be carried over a `fork`, and to be called from one thread at a time."""

    def __init__(self, binding: Any) -> None:
        self._binding = binding
        self._handles: dict[Device, Any] = {}
        self._version: dict[Device, int] = {}
        self._memory_v2: int = binding.nvmlMemory_v2
        self._functions: dict[str, Callable[..., Any]] = {}

    def call(self, function: str, *args: Any) -> Any:
        """One function of the binding by name; a `str` argument that starts with `NVML_` is looked up as a constant.

        Raises:
            NvmlFault: NVML, or the binding on its behalf, did not answer.
        """
        try:
            bound = self._functions.get(function)
            if bound is None:
                bound = self._functions[function] = getattr(self._binding, function)
            return bound(*[getattr(self._binding, a) if isinstance(a, str) and a[:5] == "NVML_" else a for a in args])
        except self._binding.NVMLError as error:
            raise NvmlFault(int(error.value), str(error)) from None
        except AttributeError:
            raise NvmlFault(13, f"{function} is not in this nvidia-ml-py") from None
        except (UnicodeDecodeError, OSError, ValueError) as error:
            raise NvmlFault(None, f"{function}: {error}") from None

    def constant(self, name: str) -> int:
        """A number of nvml.h by name.

        Raises:
            NvmlFault: this nvidia-ml-py is older than the constant.
        """
        try:
            return int(getattr(self._binding, name))
        except AttributeError:
            raise NvmlFault(13, f"{name} is not in this nvidia-ml-py") from None

    def ask(self, device: Device, function: str, *args: Any) -> Any:
        """The same for one device, whose handle goes first."""
        handle = self._handles.get(device)
        if handle is None:
            handle = self.reopen(device)
        return self.call(function, handle, *args)

    def driver_version(self) -> str | None:
        """As `nvidia-smi` prints it, None where the driver does not say."""
        try:
            return str(self.call("nvmlSystemGetDriverVersion"))
        except NvmlFault:
            return None

    def devices(self) -> tuple[Device, ...]:
        """Every GPU in NVML's order, each followed by its MIG instances. A GPU that cannot be reached is in the list,
        without a UUID, so that its row says why.

        Raises:
            NvmlFault: not even the number of GPUs is known.
        """
        found: list[Device] = []
        for index in range(int(self.call("nvmlDeviceGetCount"))):
            gpu = Device(index=index)
            try:
                handle = self.call("nvmlDeviceGetHandleByIndex", index)
            except NvmlFault:
                found.append(gpu)
                continue
            gpu = self._describe(gpu, handle)
            self._handles[gpu] = handle
            found.append(gpu)
            found.extend(self._instances(gpu, handle))
        return tuple(found)

    def reopen(self, device: Device) -> Any:
        """Ask for the handle again: after a reset or a lost bus the old one stays dead.

        Raises:
            NvmlFault: the GPU is still not there.
        """
        try:
            self._handles[device] = self._find(device)
        except NvmlFault as fault:
            if fault.status != "uninitialized":
                raise
            self.call("nvmlInit")
            self._handles[device] = self._find(device)
        return self._handles[device]

    def memory(self, device: Device) -> Memory:
        """Version 2 where it works, else version 1.

        Raises:
            NvmlFault: neither answers, or the device has no memory of its own (GB10 shares the host's).
        """
        version = self._version.get(device)
        if version != 1:
            try:
                answer = self.ask(device, "nvmlDeviceGetMemoryInfo", self._memory_v2)
            except NvmlFault as fault:
                if version == 2 or fault.status in ("lost", "no_permission", "uninitialized", "gpu_not_found"):
                    raise
            else:
                self._version[device] = 2
                return self._memory(answer, reserved_bytes=int(answer.reserved))
        answer = self.ask(device, "nvmlDeviceGetMemoryInfo")
        self._version[device] = 1
        return self._memory(answer, reserved_bytes=None)

    def processes(self, device: Device) -> tuple[GpuProcess, ...]:
        """Compute processes on the device; graphics ones are not asked for (4.5 ms a call under the driver's lock).

        Raises:
            NvmlFault: the list is not to be had.
        """
        return tuple(
            GpuProcess(pid=int(p.pid), used_bytes=None if p.usedGpuMemory is None else int(p.usedGpuMemory))
            for p in self.ask(device, "nvmlDeviceGetComputeRunningProcesses")
        )

    def close(self) -> None:
        """Let the driver go; a driver that is already gone is no error."""
        try:
            self.call("nvmlShutdown")
        except NvmlFault:
            self._handles.clear()

    def _find(self, device: Device) -> Any:
        if device.mig_index is None and device.uuid:
            return self.call("nvmlDeviceGetHandleByUUID", device.uuid.encode())
        handle = self.call("nvmlDeviceGetHandleByIndex", device.index)
        if device.mig_index is None:
            return handle
        return self.call("nvmlDeviceGetMigDeviceHandleByIndex", handle, device.mig_index)

    def _describe(self, device: Device, handle: Any) -> Device:
        def text(function: str) -> str:
            try:
                value = self.call(function, handle)
            except NvmlFault:
                return ""
            return str(value.decode(errors="replace") if isinstance(value, bytes) else value)

        try:
            bus_id = self.call("nvmlDeviceGetPciInfo", handle).busId
            pci = str(bus_id.decode(errors="replace") if isinstance(bus_id, bytes) else bus_id)
        except NvmlFault:
            pci = ""
        return Device(
            index=device.index,
            mig_index=device.mig_index,
            uuid=text("nvmlDeviceGetUUID"),
            pci_bus_id=pci,
            name=text("nvmlDeviceGetName"),
        )

    def _instances(self, gpu: Device, handle: Any) -> list[Device]:
        try:
            if int(self.call("nvmlDeviceGetMigMode", handle)[0]) != 1:
                return []
            slots = int(self.call("nvmlDeviceGetMaxMigDeviceCount", handle))
        except NvmlFault:
            return []  # no MIG on this GPU, or not for this user: its own row says what there is to say
        found = []
        for slot in range(slots):
            try:
                instance_handle = self.call("nvmlDeviceGetMigDeviceHandleByIndex", handle, slot)
            except NvmlFault:
                continue  # an empty slot
            described = self._describe(Device(index=gpu.index, mig_index=slot), instance_handle)
            instance = Device(
                index=gpu.index,
                mig_index=slot,
                uuid=described.uuid,
                pci_bus_id=described.pci_bus_id or gpu.pci_bus_id,
                name=described.name,
            )
            self._handles[instance] = instance_handle
            found.append(instance)
        return found

    @staticmethod
    def _memory(answer: Any, *, reserved_bytes: int | None) -> Memory:
        if not answer.total:
            raise NvmlFault(3, "the device has no memory of its own")
        return Memory(
            total_bytes=int(answer.total),
            used_bytes=int(answer.used),
            free_bytes=int(answer.free),
            reserved_bytes=reserved_bytes,
        )


def open_nvml() -> Nvml:
    """Start NVML.

    Raises:
        NoDriverError: no library, no driver, or one that does not answer: the sentence says which.
    """
    with warnings.catch_warnings():
        # The deprecated package of the same name hooks this import only to warn about itself.
        warnings.simplefilter("ignore", FutureWarning)
        try:
            import pynvml
        except ImportError:
            raise NoDriverError(
                "nvidia-ml-py is not installed", hint="pip install nvidia-ml-py", status="binding_not_found"
            ) from None
    if not hasattr(pynvml, "_nvmlGetFunctionPointer") or not hasattr(pynvml, "nvmlMemory_v2"):
        raise NoDriverError(_LOOK_ALIKE, hint=_REMOVE_IT, status="binding_not_found")
    door = Nvml(pynvml)
    try:
        door.call("nvmlInit")
    except NvmlFault as fault:
        raise no_driver(fault) from None
    return door
