"""The device's memory as the allocator asks for it: the five calls of the driver."""

from __future__ import annotations

from vramplan.allocator.blocks import Stream
from vramplan.allocator.sizes import LARGE_ROUNDING_BYTES, round_up

TOP_ADDRESS = 1 << 52
"""Segments lie below it, the newest lowest: of free blocks of one size the lowest is taken, which is then the newest.

So does cudaMalloc on Linux, where the kernel maps from the top down: a recorded trace has its eight large segments each
below the one before (silmont2000, mem_snapshot.pickle, torch on Linux), and with rising addresses four of 61 reserved
peaks that fitcheck-llm 0.3.1 measured on a T4 are out by a whole score matrix each. A snapshot's numbers are read by
JavaScript, exact up to 2**53.
"""


ENDLESS_BYTES = 1 << 44
"""Addresses of an expandable segment on a device without end."""


class DeviceMemory:
    """Hands out memory at falling addresses until `capacity_bytes` are in use.

    Each call but `reserve` says for which stream the memory is; the device does not care, a recorder does.

    Args:
        capacity_bytes: what all segments together may have; None: without end.
    """

    __slots__ = ("_lowest_address", "capacity_bytes", "used_bytes")

    def __init__(self, capacity_bytes: int | None = None) -> None:
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        self._lowest_address = TOP_ADDRESS

    def allocate(self, num_bytes: int, owner: Stream) -> int | None:  # noqa: ARG002 - see `recording`
        """The address of a new segment (cudaMalloc), or None where there is no room."""
        return self._new_addresses(num_bytes) if self._take(num_bytes) else None

    def free(self, address: int, num_bytes: int, owner: Stream) -> None:  # noqa: ARG002
        """Takes a segment back (cudaFree)."""
        self.used_bytes -= num_bytes

    def reserve(self, num_bytes: int) -> int:
        """Addresses without memory behind them (cuMemAddressReserve)."""
        return self._new_addresses(num_bytes)

    def address_space_bytes(self) -> int:
        """Addresses of one expandable segment, before rounding up to its pages.

        An eighth more than the device has bytes, so that pages can move to its end (`ExpandableSegment` in
        c10/cuda/CUDACachingAllocator.cpp).
        """
        return ENDLESS_BYTES if self.capacity_bytes is None else self.capacity_bytes + self.capacity_bytes // 8

    def unreserve(self, address: int, num_bytes: int) -> None:
        """Takes addresses back (cuMemAddressFree); the model never runs out of them."""

    def map(self, address: int, num_bytes: int, owner: Stream) -> bool:  # noqa: ARG002
        """Puts memory behind reserved addresses (cuMemCreate, cuMemMap); False where there is no room."""
        return self._take(num_bytes)

    def unmap(self, address: int, num_bytes: int, owner: Stream) -> None:  # noqa: ARG002
        """Takes that memory back (cuMemUnmap, cuMemRelease)."""
        self.used_bytes -= num_bytes

    def _take(self, num_bytes: int) -> bool:
        if self.capacity_bytes is not None and self.used_bytes + num_bytes > self.capacity_bytes:
            return False
        self.used_bytes += num_bytes
        return True

    def _new_addresses(self, num_bytes: int) -> int:
        self._lowest_address -= round_up(num_bytes, LARGE_ROUNDING_BYTES)
        return self._lowest_address
