"""The allocator's fixed sizes, and how a request becomes a block and a segment.

Source of every constant: torch 2.13.0, c10/core/AllocatorConfig.h (kMinBlockSize, kSmallSize, kSmallBuffer,
kMinLargeAlloc, kRoundLarge). They have not changed since torch 1.0.
"""

from __future__ import annotations

from collections.abc import Sequence

from vramplan.units import MiB

MIN_BLOCK_BYTES = 512
"""Every block is a multiple of this."""
SMALL_BYTES = MiB
"""Blocks up to here live in the small pool."""
SMALL_SEGMENT_BYTES = 2 * MiB
"""A small pool grows by segments of this size, and by pages of this size when segments are expandable."""
DEFAULT_LARGE_SEGMENT_BYTES = 20 * MiB
"""A block under `MIN_DEDICATED_BYTES` is cut from a segment of this size (`large_segment_size_mb`)."""
MIN_DEDICATED_BYTES = 10 * MiB
"""From here on a request gets a segment of its own."""
LARGE_ROUNDING_BYTES = 2 * MiB
"""A segment of its own is rounded up to a multiple of this."""

NUM_DIVISION_INTERVALS = 16
"""`roundup_power2_divisions` has one entry per power of two from 1 MiB to 32 GiB (AllocatorConfig.cpp)."""


def round_up(num_bytes: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that holds `num_bytes`."""
    return -(-num_bytes // multiple) * multiple


def block_bytes(num_bytes: int, divisions: Sequence[int] | None = None) -> int:
    """Bytes of the block that a request for `num_bytes` asks the pool for.

    Args:
        num_bytes: the request, more than zero.
        divisions: `roundup_power2_divisions`, one entry per interval; None when the option is off.
    """
    if divisions is not None and num_bytes >= MIN_BLOCK_BYTES:
        interval = num_bytes.bit_length() - MiB.bit_length()
        steps = divisions[min(max(interval, 0), NUM_DIVISION_INTERVALS - 1)]
        if steps > 1 and num_bytes > MIN_BLOCK_BYTES * steps:
            floor = 1 << (num_bytes.bit_length() - 1)
            return round_up(num_bytes, floor // steps)
    return round_up(num_bytes, MIN_BLOCK_BYTES)


def segment_bytes(size: int, large_segment_bytes: int = DEFAULT_LARGE_SEGMENT_BYTES) -> int:
    """Bytes asked of the driver for a new segment that is to hold a block of `size` bytes."""
    if size <= SMALL_BYTES:
        return SMALL_SEGMENT_BYTES
    if size < MIN_DEDICATED_BYTES:
        return large_segment_bytes
    return round_up(size, LARGE_ROUNDING_BYTES)
