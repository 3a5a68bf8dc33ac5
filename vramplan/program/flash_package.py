"""The flash-attn package as far as memory goes, for machines that do not have it."""

# ruff: noqa: ARG001 - signatures are the operators' own

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch

from vramplan.program.device_kind import DeviceKind
from vramplan.program.kernels_attention import flash_backward, flash_forward

_UTILITIES = "transformers.modeling_flash_attention_utils"


@contextmanager
def flash_package(device: DeviceKind) -> Iterator[None]:
    """Gives transformers' flash_attention_2 something to call on fake tensors."""
    function = _attention_on(device)

    def functions(*_: Any, **__: Any) -> tuple[Any, ...]:
        return function, _varlen(function), None, _pad, None

    with ExitStack() as stack:
        stack.enter_context(patch(f"{_UTILITIES}._lazy_imports", functions))
        stack.enter_context(patch(f"{_UTILITIES}._loaded_implementation", None))
        stack.enter_context(patch(f"{_UTILITIES}._is_packed_sequence", lambda *_: False))
        stack.enter_context(patch(f"{_UTILITIES}._upad_input", _unpad))
        yield


def _attention_on(device: DeviceKind) -> Callable[..., Any]:
    class Attention(torch.autograd.Function):  # type: ignore[misc]
        """flash_attn_interface.FlashAttnFunc: it saves q, k, v, the output, its log-sum-exp and the rng state."""

        @staticmethod
        def forward(context: Any, query: Any, key: Any, value: Any, dropout: float) -> Any:
            width = query.shape[-1]
            if width % 8:
                missing = 8 - width % 8
                query, key, value = (torch.nn.functional.pad(item, (0, missing)) for item in (query, key, value))
            out, lse, rng_state, _ = flash_forward(query, key, dropout=dropout, num_sms=device.num_sms)
            context.save_for_backward(query, key, value, out, lse, rng_state)
            return out[..., :width]

        @staticmethod
        def backward(context: Any, grad: Any) -> Any:
            query, key, value, out, _lse, _rng_state = context.saved_tensors
            width = grad.shape[-1]
            if width % 8:
                grad = torch.nn.functional.pad(grad, (0, 8 - width % 8))
            gradients = flash_backward(grad, query, key, value, out)
            return *(gradient[..., :width] for gradient in gradients), None

    def flash_attn_func(
        q: Any,
        k: Any,
        v: Any,
        dropout_p: float = 0.0,
        softmax_scale: Any = None,
        causal: bool = False,
        window_size: Any = (-1, -1),
        softcap: float = 0.0,
        deterministic: bool = False,
    ) -> Any:
        return Attention.apply(q, k, v, dropout_p)

    return flash_attn_func


def _varlen(function: Callable[..., Any]) -> Callable[..., Any]:
    def flash_attn_varlen_func(
        q: Any,
        k: Any,
        v: Any,
        cu_seqlens_q: Any,
        cu_seqlens_k: Any,
        max_seqlen_q: Any = None,
        max_seqlen_k: Any = None,
        dropout_p: float = 0.0,
        softmax_scale: Any = None,
        causal: bool = False,
        window_size: Any = (-1, -1),
        softcap: float = 0.0,
        deterministic: bool = False,
    ) -> Any:
        return function(q[None], k[None], v[None], dropout_p)[0]

    return flash_attn_varlen_func


def _unpad(query: Any, key: Any, value: Any, mask: Any, query_length: int, unpad_input: Any) -> tuple[Any, ...]:
    """`_upad_input` with rows that hold (next to) no padding: copies of all tokens, and where they go back."""
    indices = mask.flatten().to(torch.int64)
    lengths = mask.new_empty(mask.shape[0] + 1, dtype=torch.int32)
    flat = [item.reshape(-1, *item.shape[2:]) for item in (query, key, value)]
    rows = query.shape[0] * query.shape[1]
    gathered = [item[: item.shape[0]].clone() for item in flat]
    return *gathered, indices[:rows], (lengths, lengths), (query.shape[1], key.shape[1])


def _pad(out: Any, indices: Any, rows: int, tokens: int) -> Any:
    return out.clone().reshape(rows, tokens, *out.shape[1:])
