"""What a record says of the process itself: versions, the allocator's settings, and the rows that a model was given."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

from vramplan import __version__
from vramplan.planner.measured_record import allocator_conf
from vramplan.records.record import RecordAllocator

_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "trl", "accelerate", "vllm")


def longest_row(longest: list[int]) -> Callable[..., None]:
    """A hook that keeps the length of the longest row that the model was trained on."""

    def look(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module.training:
            rows = kwargs.get("input_ids", args[0] if args else None)
            shape: Sequence[int] = getattr(rows, "shape", ())
            if len(shape) == 2:
                longest[0] = max(longest[0], int(shape[1]))

    return look


def allocator_of(device: str) -> RecordAllocator:
    """How torch's allocator is set in this process, for a device of that type."""
    conf = allocator_conf(None)
    if device != "cuda":
        return RecordAllocator(conf=conf, backend="cpu")
    import torch

    return RecordAllocator(
        conf=conf,
        backend=torch.cuda.get_allocator_backend(),
        cublas_workspace_config=os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )


def versions_of(driver: str | None) -> dict[str, str | None]:
    """Versions of everything that a record names, None for what is not there."""
    import torch

    versions: dict[str, str | None] = dict.fromkeys(_PACKAGES)
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions | {
        "cuda": torch.version.cuda,
        "driver": driver,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "vramplan": __version__,
    }
