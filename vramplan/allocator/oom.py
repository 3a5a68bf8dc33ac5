"""What the allocator says when a request does not fit."""

from __future__ import annotations

from vramplan.errors import DoesNotFitError
from vramplan.units import MiB


class OutOfMemory(DoesNotFitError):  # noqa: N818 - named as what happens, like torch.OutOfMemoryError
    """The device has no room for a new segment, with every cached segment already given back.

    Attributes:
        requested_bytes: what the program asked for.
        block_bytes: the same, rounded to a block.
        segment_bytes: what the allocator asked of the driver for it.
        allocated_bytes: held by live blocks at that moment.
        reserved_bytes: held by segments at that moment.
        capacity_bytes: what all segments together may have.
        event_index: which event of a replay it was, from 0; None outside a replay.
    """

    def __init__(
        self,
        *,
        requested_bytes: int,
        block_bytes: int,
        segment_bytes: int,
        allocated_bytes: int,
        reserved_bytes: int,
        capacity_bytes: int,
    ) -> None:
        super().__init__(
            f"out of memory: {requested_bytes / MiB:,.2f} MiB more do not fit, with {allocated_bytes / MiB:,.2f} MiB "
            f"allocated and {reserved_bytes / MiB:,.2f} MiB reserved of {capacity_bytes / MiB:,.2f} MiB",
            hint="try expandable_segments:True" if reserved_bytes - allocated_bytes >= requested_bytes else None,
        )
        self.requested_bytes = requested_bytes
        self.block_bytes = block_bytes
        self.segment_bytes = segment_bytes
        self.allocated_bytes = allocated_bytes
        self.reserved_bytes = reserved_bytes
        self.capacity_bytes = capacity_bytes
        self.event_index: int | None = None
