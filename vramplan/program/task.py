"""What a measuring process is asked to do. Loads no torch: the asking process need not have any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vramplan.core.run import Run
from vramplan.core.stack import Stack


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run on a real device.

    Args:
        run: what is done.
        configs: per role the parsed `config.json`.
        stack: what the installed libraries do.
        checkpoints: per role the folder or Hub name that its weights are loaded from; random ones for the others.
        writes_checkpoints: whether random weights are written to a checkpoint first and loaded from there.
        steps: optimizer updates, where the method has any.
        device: `cuda`, or `cpu` for tests: there an allocator model counts what tensors take.
        allocator_conf: PYTORCH_ALLOC_CONF of the process.
        capacity_bytes: on a CPU, what the allocator may reserve; None for as much as it wants.
        settle_seconds: rest after each phase, so that whoever samples the card sees it.
        snapshot: file for a memory snapshot, written where the allocator throws; None writes none.
        folder: a folder of its own, for what it writes besides.
        max_model_length: the longest row that a colocated engine serves, None for the model's own limit.
    """

    run: Run
    configs: Mapping[str, Mapping[str, Any]]
    stack: Stack
    checkpoints: Mapping[str, str]
    writes_checkpoints: bool
    steps: int
    device: str
    allocator_conf: str
    capacity_bytes: int | None
    settle_seconds: float
    snapshot: str | None
    folder: str
    max_model_length: int | None = None
