"""The highest bytes in use of a traced pass, for every setting of a grid: `Traced.level` with numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

from vramplan.allocator.sizes import LARGE_ROUNDING_BYTES, MIN_BLOCK_BYTES, MIN_DEDICATED_BYTES, SMALL_BYTES
from vramplan.formula.traced import Traced
from vramplan.planner.search.grid import Values, is_grid


def peak_bytes(traced: Traced, num_settings: int) -> Values:
    """Bytes in use at the highest point of a pass.

    Args:
        traced: a pass whose requests are Grids, or ints where a size is the same in all settings.
        num_settings: of the grid.

    Returns:
        One value for each setting: what `traced.level({}).peak_bytes` is for that setting alone.
    """
    nets, highs = _segments(traced, num_settings)
    now: Values = np.zeros(num_settings, dtype=np.int64)
    peak: Values = np.zeros(num_settings, dtype=np.int64)
    for piece, times in traced.runs:
        net, high = nets[piece], highs[piece]
        # Each repetition starts `net` higher (or lower) than the one before.
        np.maximum(peak, now + high + (times - 1) * np.maximum(net, 0), out=peak)
        now = now + times * net
    return peak


def allocated(num_bytes: Values) -> Values:
    """`vramplan.formula.blocks.allocated` of each; 0 bytes are no block."""
    size = -(-num_bytes // MIN_BLOCK_BYTES) * MIN_BLOCK_BYTES
    segment = -(-size // LARGE_ROUNDING_BYTES) * LARGE_ROUNDING_BYTES
    whole = (size >= MIN_DEDICATED_BYTES) & (segment - size <= SMALL_BYTES)
    return np.where(whole, segment, size)


def _segments(traced: Traced, num_settings: int) -> tuple[list[Values], list[Values]]:
    """For each piece what stays of it, and how high it got above its start."""
    blocks = _blocks(traced, num_settings)
    homes: list[int] = []
    nets: list[Values] = []
    highs: list[Values] = []
    repeats = traced.repeats
    for index, piece in enumerate(traced.pieces):
        changes: Values = np.zeros((piece.end - piece.start + 1, num_settings), dtype=np.int64)
        for place, event in enumerate(traced.events[piece.start : piece.end], start=1):
            if _is_request(event):
                changes[place] = blocks[len(homes)]
                homes.append(index)
            else:
                serial = -1 - event
                times = repeats[homes[serial]][index]
                changes[place] = -blocks[serial] if times == 1 else -times * blocks[serial]
        levels = np.cumsum(changes, axis=0, out=changes)
        nets.append(levels[-1].copy())
        highs.append(levels.max(axis=0))
    return nets, highs


def _blocks(traced: Traced, num_settings: int) -> Values:
    """Bytes of the block of each serial: serials × settings."""
    requests: list[Any] = [event for event in traced.events if _is_request(event)]
    sizes: Values = np.empty((len(requests), num_settings), dtype=np.int64)
    for serial, request in enumerate(requests):
        sizes[serial] = request.values if is_grid(request) else request
    return allocated(sizes)


def _is_request(event: Any) -> bool:
    """Whether it asks for bytes; what frees is an int below 0."""
    return is_grid(event) or event > 0
