"""Entries of what lies beside torch's tensors, however a phase's tensors are known."""

from __future__ import annotations

from vramplan.core.device import Gpu
from vramplan.core.report import Basis, Component, Entry
from vramplan.core.run import Rollout, RolloutBackend


def fragmentation_entry(num_bytes: int) -> Entry:
    """Segments that no tensor uses."""
    return Entry(
        component=Component.FRAGMENTATION,
        label="segments that no tensor uses",
        num_bytes=num_bytes,
        basis=Basis.MODELLED,
        formula="the run's allocations replayed through a model of the caching allocator",
        source="c10/cuda/CUDACachingAllocator.cpp, vramplan/allocator",
    )


def engine_entries(rollout: Rollout | None, gpu: Gpu, *, awake: bool) -> list[Entry]:
    """A colocated engine's share while it is awake; none without such an engine."""
    if not awake or rollout is None or rollout.backend is not RolloutBackend.VLLM_COLOCATE:
        return []
    return [
        Entry(
            component=Component.ROLLOUT_ENGINE,
            label="vLLM",
            num_bytes=rollout.engine_bytes(gpu.total_bytes),
            basis=Basis.EXACT,
            formula=f"{rollout.gpu_memory_utilization} × {gpu.total_bytes:,} B of the whole card",
            source="vLLM gpu_memory_utilization: a share of total memory, its own weight copy included",
        )
    ]
