"""What CUDA's attention kernels allocate, as torch code: outputs, what they save, and temporaries of the backward.

Sources: PyTorch aten/src/ATen/native/transformers/cuda/{attention.cu,attention_backward.cu} and
flash_attn/flash_api.cpp (read at 2.13's level).
"""

# ruff: noqa: ARG001 - signatures are the operators' own

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from vramplan.program.device_kind import DeviceKind

_aten = torch.ops.aten
_Tensors = tuple[Any, ...]


def round_up(value: int, multiple: int) -> int:
    """The next multiple at or above `value`."""
    return -(-value // multiple) * multiple


def attention_kernels(device: DeviceKind) -> Mapping[Any, Callable[..., Any]]:
    """Operator to what it allocates on `device`."""

    def flash(query: Any, key: Any, value: Any, dropout: float = 0.0, *_: Any, **__: Any) -> _Tensors:
        out, lse, rng_state, unused = flash_forward(
            query.transpose(1, 2), key.transpose(1, 2), dropout=dropout, num_sms=device.num_sms
        )
        debug_mask = query.new_empty(0)
        return out.transpose(1, 2), lse, None, None, query.shape[2], key.shape[2], rng_state, unused, debug_mask

    return {
        _aten._scaled_dot_product_flash_attention.default: flash,
        _aten._scaled_dot_product_flash_attention_backward.default: _flash_backward,
        _aten._scaled_dot_product_efficient_attention.default: _efficient,
        _aten._scaled_dot_product_efficient_attention_backward.default: _efficient_backward,
        _aten._scaled_dot_product_cudnn_attention.default: _cudnn,
        _aten._scaled_dot_product_cudnn_attention_backward.default: _cudnn_backward,
    }


def flash_forward(query: Any, key: Any, *, dropout: float, num_sms: int) -> _Tensors:
    """mha_fwd on (batch, tokens, heads, head_dim): output, logsumexp, rng state, and its unused companion."""
    batch, tokens, heads, head_dim = query.shape
    out = torch.empty_like(query)
    lse = query.new_empty((batch, heads, tokens), dtype=torch.float32)
    rng_state = query.new_empty(2, dtype=torch.uint64)
    unused = query.new_empty((), dtype=torch.uint64)
    splits = 1 if dropout else _num_splits(batch * heads, tokens, key.shape[1], head_dim, num_sms)
    if splits > 1:
        width = round_up(head_dim, 32 if head_dim <= 128 else 64)
        _lse_accum = query.new_empty((splits, batch, heads, tokens), dtype=torch.float32)
        _out_accum = query.new_empty((splits, batch, heads, tokens, width), dtype=torch.float32)
    return out, lse, rng_state, unused


def _num_splits(rows: int, tokens: int, key_tokens: int, head_dim: int, num_sms: int) -> int:
    """set_params_splitkv and num_splits_heuristic: how often keys are split so that all SMs have work."""
    block = 256 if head_dim <= 64 else 128 if head_dim <= 128 else 64
    key_blocks = -(-key_tokens // block)
    work, slots = rows * -(-tokens // 64), 2 * num_sms
    if work >= 0.8 * slots:
        return 1
    efficiencies: dict[int, float] = {}
    for splits in range(1, min(128, slots, key_blocks) + 1):
        if splits == 1 or -(-key_blocks // splits) != -(-key_blocks // (splits - 1)):
            waves = work * splits / slots
            efficiencies[splits] = waves / math.ceil(waves)
    best = max(efficiencies.values())
    return next(splits for splits, efficiency in efficiencies.items() if efficiency >= 0.85 * best)


def flash_backward(grad_out: Any, query: Any, key: Any, value: Any, out: Any) -> _Tensors:
    """mha_bwd on (batch, tokens, heads, head_dim): the three gradients, with its accumulators freed again."""
    grad_out, out = grad_out.contiguous(), out.contiguous()
    batch, tokens, heads, head_dim = query.shape
    grad_query, grad_key, grad_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    tokens_rounded = round_up(tokens, 128)
    width = round_up(head_dim, 32 if head_dim <= 128 else 64)
    _softmax_d = query.new_empty((batch, heads, tokens_rounded), dtype=torch.float32)
    _dq_accum = query.new_empty((batch, tokens_rounded, heads, width), dtype=torch.float32)
    if key.shape[2] != heads:
        _dk_expanded = query.new_empty((batch, key.shape[1], heads, head_dim))
        _dv_expanded = query.new_empty((batch, key.shape[1], heads, head_dim))
    return grad_query, grad_key, grad_value


def _flash_backward(grad_out: Any, query: Any, key: Any, value: Any, out: Any, *_: Any, **__: Any) -> _Tensors:
    gradients = flash_backward(*(tensor.transpose(1, 2) for tensor in (grad_out, query, key, value, out)))
    return tuple(gradient.transpose(1, 2) for gradient in gradients)


def _efficient(query: Any, key: Any, value: Any, bias: Any, with_logsumexp: bool, *_: Any, **__: Any) -> _Tensors:
    batch, heads, tokens, _head_dim = query.shape
    width = value.shape[-1]
    out = query.new_empty((batch, tokens, heads, width))
    # kAlignLSE = 32 (mem_eff_attention/kernel_forward.h)
    lse = query.new_empty((batch, heads, round_up(tokens, 32) if with_logsumexp else 0), dtype=torch.float32)
    if width > 128 and query.dtype != torch.float32:  # kNeedsOutputAccumulatorBuffer
        _accum = query.new_empty((batch, tokens, heads, width), dtype=torch.float32)
    seed = query.new_empty(0, dtype=torch.int64)  # on the host outside graph capture
    return out.transpose(1, 2), lse, seed, seed


def _efficient_backward(
    grad_out: Any, query: Any, key: Any, value: Any, bias: Any, out: Any, *rest: Any, **__: Any
) -> _Tensors:
    wants_bias = bias is not None and rest[4][3]
    grad_out, out = grad_out.transpose(1, 2), out.transpose(1, 2)
    batch, heads, tokens, head_dim = query.shape

    def gradient(of: Any) -> Any:
        return of.new_empty((of.shape[0], of.shape[2], of.shape[1], of.shape[3])).transpose(1, 2)

    gradients = [gradient(query), gradient(key), gradient(value)]
    grad_bias = bias.new_empty((*bias.shape[:-1], round_up(bias.shape[-1], 16))) if wants_bias else None
    if query.dtype == torch.float32:
        product = grad_out.float() * out.float()
        summed = product.sum(-1)
        del product
        _delta = summed.transpose(-2, -1).contiguous()
    else:
        # The kernel computes delta, and accumulates dQ in fp32 tiles of 64 × 64 (kernel_backward.h, workspace_size).
        _delta = query.new_empty((batch, heads, tokens), dtype=torch.float32)
        tile = round_up(tokens, 64) * round_up(head_dim, 64)
        _workspace = query.new_empty(batch * heads * tile * 4, dtype=torch.uint8)
    return *gradients, grad_bias


def _cudnn(query: Any, key: Any, value: Any, bias: Any, with_logsumexp: bool, *_: Any, **__: Any) -> _Tensors:
    batch, heads, tokens, _head_dim = query.shape
    out = torch.empty_like(query) if query.shape == value.shape else query.new_empty((*query.shape[:3], value.shape[3]))
    lse = query.new_empty((batch, heads, tokens, 1) if with_logsumexp else 0, dtype=torch.float32)
    seed = query.new_empty((), dtype=torch.int64)
    return out, lse, None, None, tokens, key.shape[2], seed, seed, bias


def _cudnn_backward(grad_out: Any, query: Any, key: Any, value: Any, out: Any, *_: Any, **__: Any) -> _Tensors:
    # cuDNN's workspace is its own secret; the same fp32 dQ accumulator and row sums as flash attention's are assumed.
    del grad_out, out
    batch, heads, tokens, head_dim = query.shape
    gradients = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    _workspace = query.new_empty((batch, heads, round_up(tokens, 128), head_dim + 1), dtype=torch.float32)
    return gradients
