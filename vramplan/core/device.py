"""Gpu: how much memory a card has as its driver reports it, and what CUDA takes before the first tensor.

Three totals are easy to mix up, so each has its own name:

- `total_bytes`: `memory.total` of nvidia-smi, never the number in the card's name.
- `torch_total_bytes`: `torch.cuda.get_device_properties(0).total_memory`, which leaves out what driver and firmware
  keep for themselves; allocations fail here, not at `total_bytes`.
- `context_bytes`: what one process holds besides PyTorch's segments: the CUDA context, the libraries' kernels and
  handles, after training kernels have run once.
"""

from __future__ import annotations

from typing import Literal

from vramplan.core.quick import dataclass
from vramplan.units import KiB, MiB

ContextBasis = Literal["measured", "modelled"]

# aten/src/ATen/cuda/CublasHandlePool.cpp, parseChosenWorkspaceSize(): ":4096:2:16:8", that is 2 × 4 MiB + 8 × 16 KiB.
CUBLAS_WORKSPACE_BYTES = 2 * 4096 * KiB + 8 * 16 * KiB
# The same function: 32 MiB on Hopper (since pytorch/pytorch#91564, January 2023) and on Blackwell, major 10 and 12
# (since #175344, February 2026; releases before it use the smaller one there), and 11 (since #189312, July 2026).
LARGE_CUBLAS_WORKSPACE_BYTES = 32 * MiB
_LARGE_WORKSPACE_MAJORS = frozenset({9, 10, 11, 12})

# MiB per multiprocessor that a process holds on the device besides PyTorch's segments, after kernels ran, by compute
# capability. The driver sizes it by multiprocessor: local memory alone is 1 KiB (the default stack limit) for every
# thread that can be resident (NVIDIA forum, "Local memory management", 289339), 1 to 2 MiB per multiprocessor.
# But for 7.5, measured exactly (140.875 MiB on the 40 of a T4), each value is the median of `in use - allocated -
# reserved but unallocated` in out-of-memory messages of PyTorch, single processes only, read 2026-11-21. The same
# sum gives 141 MiB on a T4 (FoundationVision/GenerateU#10). In MiB / multiprocessors:
#   7.0: V100 385 / 80.                      8.0: A100 501, 502, 503, 512 / 108.
#   8.6: RTX 3090 307, 317 / 82; RTX A6000 317, 317 / 84; RTX 3080 257 / 68.
#   8.9: L40S 514, 523, 524 / 142; L40 507 / 142; RTX 4090 473, 479, 504, 521 / 128; L4 236 / 58.
#   9.0: H100 SXM 599, 749, 768 / 132; H100 NVL 668, 676, 768, 768 / 132; H100 PCIe 601 / 114; H200 680 / 132.
#   10.0: B200 712 / 148 with element-wise kernels only, so Hopper's value is taken.
#   12.0: RTX 5090 594, 595, 614, 619 / 170; RTX PRO 6000 696 / 188.
_CONTEXT_MIB_PER_MULTIPROCESSOR = {
    (7, 0): 4.8,
    (7, 5): 3.522,
    (8, 0): 4.65,
    (8, 6): 3.8,
    (8, 9): 3.7,
    (9, 0): 5.25,
    (10, 0): 5.25,
    (12, 0): 3.6,
    (12, 1): 3.6,
}
MODELLED_CONTEXT_SOURCE = (
    "modelled: multiprocessors × MiB per multiprocessor of this compute capability, fitted to PyTorch's out-of-memory "
    "messages (vramplan/core/device.py)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One kind of card.

    Args:
        name: the profile's name, as `--gpu` takes it (`h100-80gb`).
        label: what the driver calls it (`NVIDIA H100 80GB HBM3`).
        total_bytes: `memory.total` as the driver reports it.
        total_source: where that was read.
        compute_capability: (major, minor).
        num_multiprocessors: streaming multiprocessors: the context is sized by them.
        chip_source: where capability and multiprocessors were read.
        context_bytes: device memory of one process minus PyTorch's reserved memory, after kernels ran.
        context_basis: `measured` on such a card, or `modelled` by `modelled_context_bytes`.
        context_source: where it was measured, or the model's name.
        cublas_workspace_bytes: PyTorch's default workspace per cuBLAS handle and stream. It lies inside the caching
            allocator, so it is part of allocated memory, not of the context.
        torch_total_bytes: `total_memory` of torch's device properties, or None where nobody has read it.
        torch_total_source: where that was read, or None.
        training_band: how far measured training runs lie below and above an estimate, as ratios, where they were
            fitted on this card; None for the shipped band.
        inference_band: the same of runs that train nothing.
        band_source: the records that they were fitted to, or None.
        aliases: other names `--gpu` takes.
    """

    name: str
    label: str
    total_bytes: int
    total_source: str
    compute_capability: tuple[int, int]
    num_multiprocessors: int
    chip_source: str
    context_bytes: int
    context_basis: ContextBasis
    context_source: str
    cublas_workspace_bytes: int
    torch_total_bytes: int | None = None
    torch_total_source: str | None = None
    training_band: tuple[float, float] | None = None
    inference_band: tuple[float, float] | None = None
    band_source: str | None = None
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what no card can be."""
        for quantity in ("total_bytes", "num_multiprocessors", "context_bytes", "cublas_workspace_bytes"):
            if getattr(self, quantity) <= 0:
                raise ValueError(f"{quantity} of {self.name} is not more than zero")
        if self.torch_total_bytes is not None and not 0 < self.torch_total_bytes <= self.total_bytes:
            raise ValueError(f"torch sees {self.torch_total_bytes} of the {self.total_bytes} bytes of {self.name}")
        if (self.torch_total_bytes is None) != (self.torch_total_source is None):
            raise ValueError(f"the torch total of {self.name} and its source come together or not at all")
        for band in (self.training_band, self.inference_band):
            if band is not None and not (0 <= band[0] < 1 and band[1] >= 0):
                raise ValueError(f"the band of {self.name} is not a share below and one above: {band}")
        if (self.band_source is None) != (self.training_band is None and self.inference_band is None):
            raise ValueError(f"the band of {self.name} and its source come together or not at all")
        if self.context_bytes >= self.usable_bytes:
            raise ValueError(f"the context of {self.name} leaves no memory")

    @property
    def usable_bytes(self) -> int:
        """What allocations can reach: torch's total, or the driver's where torch's is not known."""
        return self.total_bytes if self.torch_total_bytes is None else self.torch_total_bytes


def default_cublas_workspace_bytes(compute_capability: tuple[int, int]) -> int:
    """PyTorch's default cuBLAS workspace where `CUBLAS_WORKSPACE_CONFIG` is not set."""
    large = compute_capability[0] in _LARGE_WORKSPACE_MAJORS
    return LARGE_CUBLAS_WORKSPACE_BYTES if large else CUBLAS_WORKSPACE_BYTES


def modelled_context_bytes(compute_capability: tuple[int, int], num_multiprocessors: int) -> int | None:
    """Context of a card on which nobody has measured it, in whole MiB; None for an unknown compute capability."""
    per_multiprocessor = _CONTEXT_MIB_PER_MULTIPROCESSOR.get(compute_capability)
    if per_multiprocessor is None:
        return None
    return round(per_multiprocessor * num_multiprocessors) * MiB
