"""NVML's return codes in our words: what a cell says, whether to try again, and the sentence for a user.

The codes are those of nvml.h (`nvmlReturn_t`), the same in nvidia-ml-py 13.615.71. The binding's own `NVMLError` is
unhashable and compares by attribute, so it never leaves `monitor/nvml.py`: this class does.
"""

from __future__ import annotations

from vramplan.errors import NoHardwareError

OK = "ok"
NOT_SUPPORTED = "not_supported"
NO_PERMISSION = "no_permission"
LOST = "lost"
UNKNOWN = "unknown_error"
STALLED = "stalled"
"""The driver has not answered for so long that the tick was written without it."""

_STATUS = {
    3: NOT_SUPPORTED,
    4: NO_PERMISSION,
    13: "function_not_found",
    15: LOST,
    16: "reset_required",
    28: "gpu_not_found",
    1: "uninitialized",
    9: "driver_not_loaded",
    12: "library_not_found",
    18: "version_mismatch",
    999: UNKNOWN,
}
PERMANENT = frozenset({NOT_SUPPORTED, NO_PERMISSION, "function_not_found"})
"""Answers about a call, not about the GPU's health: asking for the handle again does not help."""

_SENTENCES = {
    12: (
        "NVML, the NVIDIA driver's library, is not on this machine",
        "install the NVIDIA driver; in a container, start it with --gpus all and the utility capability",
    ),
    9: ("the NVIDIA driver is not loaded", "load it with `modprobe nvidia`, or look at `dmesg` for why it does not"),
    18: (
        "the NVIDIA driver's library and its kernel module are of different versions",
        "the driver was updated while it ran: reboot, or reload its modules",
    ),
    4: ("the NVIDIA driver does not let this user ask about GPUs", "ask for read access to /dev/nvidia*"),
    15: ("the only GPU has fallen off the bus", "look for Xid 79 in `dmesg`; a reboot brings it back"),
}


class NvmlFault(Exception):  # noqa: N818 - a fault of one call, caught inside monitor/, never an end
    """One NVML call that did not answer.

    Args:
        code: NVML's return code, or None where the binding itself failed.
        text: NVML's own words for it.
    """

    def __init__(self, code: int | None, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text

    @property
    def status(self) -> str:
        """One word for the log's status column."""
        return _STATUS.get(self.code or 0, UNKNOWN)

    @property
    def is_permanent(self) -> bool:
        """True where the same call will fail again, whatever happens to the GPU."""
        return self.status in PERMANENT


class NoDriverError(NoHardwareError):
    """NVML did not start; `status` is the word that a log has for it."""

    def __init__(self, message: str, *, hint: str | None, status: str) -> None:
        super().__init__(message, hint=hint)
        self.status = status


def no_driver(fault: NvmlFault) -> NoDriverError:
    """The error that ends a command because NVML did not start, with what to do about it."""
    message, hint = _SENTENCES.get(
        fault.code or 0, (f"NVML, the NVIDIA driver's library, does not start ({fault.text})", None)
    )
    return NoDriverError(message, hint=hint, status=fault.status)
