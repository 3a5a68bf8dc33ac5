"""What about a GPU decides which kernel runs and which buffers it asks the allocator for."""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1 << 20
# CublasHandlePool.cpp, parseChosenWorkspaceSize: `:4096:2:16:8` in KiB, and 32 MiB on sm_90 (torch 2.4 to 2.13).
CUBLAS_WORKSPACE_BYTES = (2 * 4096 + 8 * 16) * 1024
CUBLAS_WORKSPACE_HOPPER_BYTES = 32 * _MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKind:
    """A CUDA device as the kernels see it.

    Args:
        compute_capability: major × 10 + minor: 75 for a T4, 80 for an A100.
        num_sms: streaming multiprocessors: split-KV attention and 4-bit kernels choose by it.
        cublas_workspace_bytes: of each cuBLAS handle.
        efficient_attention_takes_gqa: whether PyTorch's memory-efficient kernel accepts fewer key heads than query
            heads. A T4 measured with torch 2.10 and newer takes it; in older versions such a call falls back to the
            math path where flash attention is not available either (before sm_80).
        cudnn_attention: whether SDPA prefers cuDNN (sdp_utils.cpp: sm_90 and sm_100 with cuDNN newer than 9.15.0).
    """

    compute_capability: int
    num_sms: int
    cublas_workspace_bytes: int
    efficient_attention_takes_gqa: bool = True
    cudnn_attention: bool = False

    @classmethod
    def of(cls, compute_capability: int, num_sms: int | None = None) -> DeviceKind:
        """The usual device of a compute capability."""
        return cls(
            compute_capability=compute_capability,
            num_sms=num_sms if num_sms is not None else _NUM_SMS.get(compute_capability, 108),
            cublas_workspace_bytes=CUBLAS_WORKSPACE_HOPPER_BYTES
            if compute_capability == 90
            else CUBLAS_WORKSPACE_BYTES,
        )

    @property
    def has_flash_attention(self) -> bool:
        """Whether the flash kernels run: sm_80 and newer (check_flash_attention_hardware_support)."""
        return self.compute_capability >= 80


# T4, A100, A6000, L4/L40S/4090 (the 4090's), H100 SXM, B200: NVIDIA's data sheets.
_NUM_SMS = {75: 40, 80: 108, 86: 84, 89: 128, 90: 132, 100: 148}
