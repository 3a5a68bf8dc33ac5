"""The device as a trace recorded it: segments at the addresses that the driver gave then."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque

from vramplan.allocator.blocks import Stream
from vramplan.allocator.device import DeviceMemory
from vramplan.allocator.sizes import DEFAULT_LARGE_SEGMENT_BYTES, LARGE_ROUNDING_BYTES, round_up
from vramplan.allocator.snapshot import SEGMENT_ALLOC, SEGMENT_MAP, TraceEvent

_UNSURE_BYTES = 2 * DEFAULT_LARGE_SEGMENT_BYTES


class RecordedMemory(DeviceMemory):
    """Answers with the recorded growth that comes next, and counts where the model asks for another.

    Args:
        first_free_address: from here on addresses are free, for growth that was not recorded.
        address_space_bytes: addresses of an expandable segment, or None where it is not known.

    Attributes:
        num_matched: segments and mapped ranges of the recorded size (of mapped ranges: also at the address).
        num_unrecorded: segments and ranges that the model took and the real allocator did not.
    """

    __slots__ = ("_address_space_bytes", "_next_address", "_taken", "_upcoming", "num_matched", "num_unrecorded")

    def __init__(self, first_free_address: int, address_space_bytes: int | None) -> None:
        """Starts without any growth to come."""
        super().__init__(None)
        self._address_space_bytes = address_space_bytes
        self._next_address = first_free_address
        self._taken: list[tuple[int, int]] = []
        self._upcoming: deque[TraceEvent] = deque()
        self.num_matched = 0
        self.num_unrecorded = 0

    def expect(self, event: TraceEvent) -> None:
        """Takes note of a recorded segment_alloc or segment_map."""
        self._upcoming.append(event)

    @property
    def grows_by_mapping(self) -> bool | None:
        """Whether the growth that comes next was in an expandable segment; None where none comes."""
        return self._upcoming[0].action == SEGMENT_MAP if self._upcoming else None

    def skip(self) -> None:
        """Forgets growth that the model had no need of."""
        self._upcoming.clear()

    def occupy(self, address: int, num_bytes: int) -> bool:
        """Marks addresses as in use; False, and nothing is marked, where some of them already are.

        That happens only once the model has gone another way than the recording.
        """
        index = bisect_left(self._taken, (address, 0))
        if index < len(self._taken) and self._taken[index][0] < address + num_bytes:
            return False
        if index > 0 and self._taken[index - 1][1] > address:
            return False
        self._taken.insert(index, (address, address + num_bytes))
        return True

    def allocate(self, num_bytes: int, owner: Stream) -> int | None:  # noqa: ARG002
        """The recorded address, where a segment of this size was recorded next."""
        event = self._next(SEGMENT_ALLOC)
        self.used_bytes += num_bytes
        if event is None or event.size_bytes != num_bytes or not self.occupy(event.address, num_bytes):
            self.num_unrecorded += 1
            return self._new_addresses(num_bytes)
        self._upcoming.popleft()
        self.num_matched += 1
        return event.address

    def free(self, address: int, num_bytes: int, owner: Stream) -> None:
        """Takes a segment back, and its addresses."""
        super().free(address, num_bytes, owner)
        self._vacate(address, num_bytes)

    def reserve(self, num_bytes: int) -> int:
        """The recorded address of the pages that are mapped next: a new segment is mapped from its start on."""
        event = self._next(SEGMENT_MAP)
        if event is None or not self.occupy_reserved(event.address, num_bytes):
            return self._new_addresses(num_bytes)
        return event.address

    def occupy_reserved(self, address: int, num_bytes: int) -> bool:
        """The same for an expandable segment, but for its end, which is known to about a page only."""
        return self.occupy(address, max(num_bytes - _UNSURE_BYTES, 1))

    def unreserve(self, address: int, num_bytes: int) -> None:
        """Takes the addresses of an expandable segment back."""
        self._vacate(address, max(num_bytes - _UNSURE_BYTES, 1))

    def _new_addresses(self, num_bytes: int) -> int:
        # Above what was recorded: below it, segments of the recording would still have to come.
        address = self._next_address
        self._next_address += round_up(num_bytes, LARGE_ROUNDING_BYTES)
        return address

    def _vacate(self, address: int, num_bytes: int) -> None:
        index = bisect_left(self._taken, (address, 0))
        if self._taken[index : index + 1] == [(address, address + num_bytes)]:
            del self._taken[index]

    def address_space_bytes(self) -> int:
        """Addresses of one expandable segment."""
        return super().address_space_bytes() if self._address_space_bytes is None else self._address_space_bytes

    def map(self, address: int, num_bytes: int, owner: Stream) -> bool:  # noqa: ARG002
        """Always succeeds, as what was recorded did."""
        event = self._next(SEGMENT_MAP)
        self.used_bytes += num_bytes
        if event is None or (event.address, event.size_bytes) != (address, num_bytes):
            self.num_unrecorded += 1
        else:
            self._upcoming.popleft()
            self.num_matched += 1
        return True

    def _next(self, action: str) -> TraceEvent | None:
        return self._upcoming[0] if self._upcoming and self._upcoming[0].action == action else None
