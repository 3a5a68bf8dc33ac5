"""F.scaled_dot_product_attention as CUDA chooses its kernel (attention.cpp and cuda/sdp_utils.cpp, torch 2.13)."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import pad

from vramplan.program.device_kind import DeviceKind

_aten = torch.ops.aten
_HALVES = (torch.float16, torch.bfloat16)


def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    mask: Any,
    dropout: float,
    is_causal: bool,
    *,
    scale: float | None,
    enable_gqa: bool,
    device: DeviceKind,
) -> Any:
    """Attention with the kernel that `device` would pick; see torch.nn.functional for the arguments."""
    if mask is not None and mask.dtype == torch.bool:
        zero = torch.zeros((), dtype=query.dtype)
        mask = torch.where(mask, zero, torch.full((), float("-inf"), dtype=query.dtype))
    backend = choose_backend(query, key, value, mask, dropout, is_causal, enable_gqa=enable_gqa, device=device)
    if backend == "math":
        return _aten._scaled_dot_product_attention_math(
            query, key, value, mask, dropout, is_causal, None, scale=scale, enable_gqa=enable_gqa
        )[0]
    needs_gradient = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    if backend == "cudnn":
        return _aten._scaled_dot_product_cudnn_attention(
            query, key, value, mask, needs_gradient, dropout, is_causal, False, scale=scale
        )[0]
    if backend == "flash":
        head_dim = query.shape[-1]
        scale = head_dim**-0.5 if scale is None else scale
        if head_dim % 8:
            query, key, value = (pad(tensor, (0, 8 - head_dim % 8)) for tensor in (query, key, value))
        out = _aten._scaled_dot_product_flash_attention(query, key, value, dropout, is_causal, False, scale=scale)[0]
        return out[..., :head_dim] if head_dim % 8 else out
    if mask is not None:
        mask = _aligned_mask(mask, query, key)
    return _aten._scaled_dot_product_efficient_attention(
        query, key, value, mask, needs_gradient, dropout, is_causal, scale=scale
    )[0]


def choose_backend(
    query: Any,
    key: Any,
    value: Any,
    mask: Any,
    dropout: float,
    is_causal: bool,
    *,
    enable_gqa: bool,
    device: DeviceKind,
) -> str:
    """`cudnn`, `flash`, `efficient` or `math`, in SDPA's order of preference."""
    shapes_fit = query.dim() == 4 and query.shape[0] == key.shape[0] == value.shape[0] and key.shape[2] > 0
    heads_equal = query.shape[-3] == key.shape[-3] == value.shape[-3]
    dense = all(tensor.stride(-1) == 1 for tensor in (query, key, value))
    if not shapes_fit or not dense or not (heads_equal or enable_gqa):
        return "math"
    head_dim, value_dim = query.shape[-1], value.shape[-1]
    half = query.dtype in _HALVES
    cudnn_fits = half and head_dim <= 128 and value_dim <= 128 and head_dim % 8 == 0 and value_dim % 8 == 0
    if device.cudnn_attention and cudnn_fits and key.shape[2] > 1 and dropout == 0:
        return "cudnn"
    square = not is_causal or query.shape[2] == key.shape[2]
    if device.has_flash_attention and half and mask is None and square and head_dim == value_dim <= 256:
        return "flash"
    alignment = (8 if half else 4) if device.compute_capability >= 80 else (8 if half else 1)
    dtype_fits = query.dtype is not torch.bfloat16 or device.compute_capability >= 80
    aligned = head_dim % alignment == 0 and value_dim % alignment == 0
    if dtype_fits and aligned and (heads_equal or device.efficient_attention_takes_gqa):
        return "efficient"
    return "math"


def _aligned_mask(mask: Any, query: Any, key: Any) -> Any:
    """preprocess_mask: rows of the mask padded in memory to 16 elements, then expanded."""
    if mask.shape[-1] % 16:
        last = mask.shape[-1]
        mask = pad(mask, (0, 16 - last % 16))[..., :last]
    return mask.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
