"""The settings of PyTorch's CUDA caching allocator, read from and written as `PYTORCH_ALLOC_CONF`."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass

from vramplan.allocator.conf_string import Value, parse_options
from vramplan.allocator.sizes import (
    DEFAULT_LARGE_SEGMENT_BYTES,
    LARGE_ROUNDING_BYTES,
    MIN_DEDICATED_BYTES,
    NUM_DIVISION_INTERVALS,
)
from vramplan.errors import CannotTellError, UsageError
from vramplan.units import MiB

NO_DIVISIONS = (0,) * NUM_DIVISION_INTERVALS

# Keys that change locks, pinned host memory or graph capture, not how many device bytes are reserved.
# Source: torch 2.13.0, c10/cuda/CUDAAllocatorConfig.h (getKeys) and c10/core/AllocatorConfig.h.
WITHOUT_EFFECT = (
    "graph_capture_record_stream_reuse",
    "pinned_free_catch_all",
    "pinned_max_cached_size_mb",
    "pinned_max_round_threshold_mb",
    "pinned_num_register_threads",
    "pinned_reserve_segment_size_mb",
    "pinned_use_background_threads",
    "pinned_use_cuda_host_register",
    "pinned_use_hip_host_register",
    "release_lock_on_cudamalloc",
    "release_lock_on_hipmalloc",
    "throw_on_cudamalloc_oom",
)
KEYS = (
    "backend",
    "expandable_segments",
    "garbage_collection_threshold",
    "large_segment_size_mb",
    "max_non_split_rounding_mb",
    "max_split_size_mb",
    "per_process_memory_fraction",
    "roundup_power2_divisions",
    *WITHOUT_EFFECT,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorConfig:
    """What decides the sizes and places of blocks and segments.

    Attributes:
        max_split_size_bytes: blocks of this size or more are never split; None: every block may be.
        max_non_split_rounding_bytes: how much larger a block that is not split may be than its request; None: as
            large as `large_segment_size_bytes`.
        roundup_power2_divisions: steps between two powers of two that requests are rounded up to, one entry per
            power of two from 1 MiB on; 0 or 1 is off.
        garbage_collection_threshold: share of the allowed memory above which old cached blocks are freed before
            the pool grows, in (0, 1); 0 is off. It acts only under `per_process_memory_fraction`.
        expandable_segments: one growing segment per stream and pool, backed page by page.
        large_segment_size_bytes: the segment that blocks between 1 and 10 MiB are cut from, and the page of an
            expandable segment of large blocks.
        per_process_memory_fraction: share of the device that the allocator may reserve, in (0, 1].

    Raises:
        UsageError: a value that PyTorch's own parser refuses.
    """

    max_split_size_bytes: int | None = None
    max_non_split_rounding_bytes: int | None = None
    roundup_power2_divisions: tuple[int, ...] = NO_DIVISIONS
    garbage_collection_threshold: float = 0.0
    expandable_segments: bool = False
    large_segment_size_bytes: int = DEFAULT_LARGE_SEGMENT_BYTES
    per_process_memory_fraction: float = 1.0

    def __post_init__(self) -> None:
        if self.large_segment_size_bytes <= MIN_DEDICATED_BYTES:
            raise UsageError("large_segment_size_mb must be more than 10", hint="20 is the default")
        if self.expandable_segments and self.large_segment_size_bytes % LARGE_ROUNDING_BYTES:
            # A page is mapped in whole 2 MiB pages of the device; cuMemCreate refuses another size.
            raise UsageError("large_segment_size_mb must be even with expandable segments", hint="20 is the default")
        for name in ("max_split_size", "max_non_split_rounding"):
            value = getattr(self, f"{name}_bytes")
            if value is not None and value < self.large_segment_size_bytes:
                least = self.large_segment_size_bytes // MiB
                raise UsageError(f"{name}_mb must be at least large_segment_size_mb", hint=f"write {least} or more")
        if not 0 <= self.garbage_collection_threshold < 1:
            raise UsageError("garbage_collection_threshold must be between 0 and 1", hint="0.8 is usual")
        if not 0 < self.per_process_memory_fraction <= 1:
            raise UsageError("per_process_memory_fraction must be in (0, 1]", hint="1 is the default")
        if len(self.roundup_power2_divisions) != NUM_DIVISION_INTERVALS:
            raise UsageError(f"roundup_power2_divisions needs {NUM_DIVISION_INTERVALS} entries")
        if any(value < 0 or value & (value - 1) for value in self.roundup_power2_divisions):
            raise UsageError("roundup_power2_divisions must be powers of two, or 0 for off", hint="4 is usual")

    @classmethod
    def parse(cls, text: str) -> AllocatorConfig:
        """Settings from a `PYTORCH_ALLOC_CONF` string; of a key written twice the last holds.

        Raises:
            UsageError: a key or value that PyTorch refuses.
            CannotTellError: another allocator than the native one.
        """
        found: dict[str, Value] = dict(parse_options(text))
        for key in found:
            if key not in KEYS:
                near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.0)[0]
                raise UsageError(f"{key!r} is not an allocator setting", hint=f"the nearest is {near}")
        if found.get("backend", "native") != "native":
            raise CannotTellError(
                f"the memory that {found['backend']} reserves is not known",
                hint="only PyTorch's native caching allocator is modelled; leave backend out",
            )
        return cls(
            max_split_size_bytes=_mib(found, "max_split_size_mb"),
            max_non_split_rounding_bytes=_mib(found, "max_non_split_rounding_mb"),
            roundup_power2_divisions=_divisions(found.get("roundup_power2_divisions")),
            garbage_collection_threshold=_fraction(found, "garbage_collection_threshold", 0.0),
            expandable_segments=_bool(found, "expandable_segments"),
            large_segment_size_bytes=_mib(found, "large_segment_size_mb") or DEFAULT_LARGE_SEGMENT_BYTES,
            per_process_memory_fraction=_fraction(found, "per_process_memory_fraction", 1.0),
        )

    def format(self) -> str:
        """A `PYTORCH_ALLOC_CONF` string that `parse` reads as these settings; empty for the defaults."""
        options: list[str] = []
        if self.expandable_segments:
            options.append("expandable_segments:True")
        if self.large_segment_size_bytes != DEFAULT_LARGE_SEGMENT_BYTES:
            options.append(f"large_segment_size_mb:{self.large_segment_size_bytes // MiB}")
        if self.max_split_size_bytes is not None:
            options.append(f"max_split_size_mb:{self.max_split_size_bytes // MiB}")
        if self.max_non_split_rounding_bytes is not None:
            options.append(f"max_non_split_rounding_mb:{self.max_non_split_rounding_bytes // MiB}")
        if self.roundup_power2_divisions != NO_DIVISIONS:
            options.append(f"roundup_power2_divisions:{_format_divisions(self.roundup_power2_divisions)}")
        if self.garbage_collection_threshold:
            options.append(f"garbage_collection_threshold:{self.garbage_collection_threshold}")
        if self.per_process_memory_fraction != 1:
            options.append(f"per_process_memory_fraction:{self.per_process_memory_fraction}")
        return ",".join(options)


def _mib(found: Mapping[str, Value], key: str) -> int | None:
    value = found.get(key)
    if value is None:
        return None
    return _int(key, value) * MiB


def _int(key: str, value: Value) -> int:
    if not (isinstance(value, str) and value.isascii() and value.isdigit()):
        raise UsageError(f"{key} needs a whole number, not {value!r}", hint=f"write {key}:512")
    return int(value)


def _fraction(found: Mapping[str, Value], key: str, default: float) -> float:
    value = found.get(key)
    if value is None:
        return default
    try:
        number = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        number = math.nan
    if not 0 < number <= 1:
        raise UsageError(f"{key} needs a number between 0 and 1, not {value!r}", hint=f"write {key}:0.8")
    return number


def _bool(found: Mapping[str, Value], key: str) -> bool:
    value = found.get(key, "False")
    if value not in ("True", "False"):
        raise UsageError(f"{key} is True or False, not {value!r}", hint=f"write {key}:True")
    return value == "True"


def _divisions(value: Value | None) -> tuple[int, ...]:
    key = "roundup_power2_divisions"
    if value is None:
        return NO_DIVISIONS
    if isinstance(value, str):
        steps = _int(key, value)
        if steps == 0:
            raise UsageError(f"{key} must be a power of two", hint="leave it out to turn it off")
        return (steps,) * NUM_DIVISION_INTERVALS
    divisions = list(NO_DIVISIONS)
    last = -1
    for name, text in value:
        steps = _int(key, text)
        if name == ">":
            # torch 2.9 and later fill from the entry after the last one named; earlier ones overwrote that one too.
            divisions[last + 1 :] = [steps] * (NUM_DIVISION_INTERVALS - last - 1)
            continue
        size_mib = _int(key, name)
        if size_mib == 0 or size_mib & (size_mib - 1):
            raise UsageError(f"{name!r} is not a power of two in {key}", hint="write [256:1,512:2,>:4]")
        index = min(size_mib.bit_length() - 1, NUM_DIVISION_INTERVALS - 1)
        if last < 0:
            divisions[:index] = [steps] * index
        divisions[index] = steps
        last = index
    return tuple(divisions)


def _format_divisions(divisions: tuple[int, ...]) -> str:
    """One number for all, or a list from the last interval that is as the first to the last that is not off.

    Written without ">", which stands for other intervals before torch 2.9 than after.
    """
    first = divisions[0]
    if first and divisions == (first,) * NUM_DIVISION_INTERVALS:
        return str(first)
    begin = next(index for index, steps in enumerate(divisions) if steps != first) - 1 if set(divisions) != {0} else 0
    end = max((index for index, steps in enumerate(divisions) if steps), default=0)
    return "[" + ",".join(f"{1 << index}:{divisions[index]}" for index in range(begin, end + 1)) + "]"
