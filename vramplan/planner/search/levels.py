"""The highest bytes in use of a traced pass, for every setting of a grid: `Traced.level` with numpy."""

from __future__ import annotations

from collections.abc import Sequence
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
    for piece, times in traced.layout.runs:
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
    nets: list[Values] = []
    highs: list[Values] = []
    for changes in traced.layout.changes:
        course: Values = np.zeros((len(changes) + 1, num_settings), dtype=np.int64)
        for place, (serial, times) in enumerate(changes, start=1):
            course[place] = blocks[serial] if times == 1 else times * blocks[serial]
        levels = np.cumsum(course, axis=0, out=course)
        nets.append(levels[-1].copy())
        highs.append(levels.max(axis=0))
    return nets, highs


def _blocks(traced: Traced, num_settings: int) -> Values:
    """Bytes of the block of each serial: serials × settings."""
    sizes: Values = np.empty((len(traced.sizes), num_settings), dtype=np.int64)
    requests: Sequence[Any] = traced.sizes
    for serial, size in enumerate(requests):
        sizes[serial] = size.values if is_grid(size) else size
    return allocated(sizes)
