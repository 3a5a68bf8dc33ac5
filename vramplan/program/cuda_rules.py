"""Makes a CPU build of torch dispatch as CUDA does: autocast's operator lists, SDPA's choice, softmax and dropout.

Tensors of a simulated run are fake CPU tensors, because autograd refuses a fake `cuda` device in a build without CUDA.
Where dispatch differs by device, the CUDA rule is registered over the CPU one while a simulation runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._C import DispatchKey, DispatchKeySet, _ExcludeDispatchKeyGuard

from vramplan.program.device_kind import DeviceKind
from vramplan.program.sdpa import scaled_dot_product_attention

_aten = torch.ops.aten

# autocast_mode.h, AT_FORALL_FP32 (torch 2.13): what transformers' models can meet of it.
_FP32 = (
    "exp",
    "expm1",
    "log",
    "log10",
    "log2",
    "log1p",
    "reciprocal",
    "rsqrt",
    "sinh",
    "cosh",
    "tan",
    "acos",
    "asin",
    "pow.Tensor_Scalar",
    "pow.Tensor_Tensor",
    "pow.Scalar",
    "softplus",
    "layer_norm",
    "native_layer_norm",
    "group_norm",
    "cosine_similarity",
    "nll_loss",
    "nll_loss2d",
    "kl_div",
    "l1_loss",
    "smooth_l1_loss",
    "huber_loss",
    "mse_loss",
    "binary_cross_entropy_with_logits",
    "cdist",
    "renorm",
    "logsumexp",
)
# AT_FORALL_FP32_SET_OPT_DTYPE: the op itself is told to compute in fp32.
_FP32_DTYPE = (
    "prod",
    "prod.dim_int",
    "softmax.int",
    "log_softmax.int",
    "cumprod",
    "cumsum",
    "linalg_vector_norm",
    "sum",
    "sum.dim_IntList",
)
# On AutocastCPU's own lists, on none of AutocastCUDA's.
_UNTOUCHED = ("cat", "stack", "index_copy")
# On AutocastCPU's list as well; AutocastCUDA falls through to its parts, which are cast one by one: log_softmax is told
# its dtype (LossNLL.cpp: the input's), nll_loss is made fp32.
_BY_PARTS = ("cross_entropy_loss",)

_AUTOCAST = DispatchKeySet(DispatchKey.AutocastCPU)


@contextmanager
def cuda_dispatch(device: DeviceKind) -> Iterator[None]:
    """CUDA's rules in place of the CPU's, for every tensor of this process, until left."""
    autocast = torch.library.Library("aten", "IMPL", "AutocastCPU")
    autograd = torch.library.Library("aten", "IMPL", "AutogradCPU")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of each CPU rule that is replaced
        for name in _FP32:
            autocast.impl(name, _in_fp32(_overload(name)))
        for name in _FP32_DTYPE:
            autocast.impl(name, _with_fp32_dtype(_overload(name)))
        for name in _UNTOUCHED:
            autocast.impl(name, _untouched(_overload(name)))
        for name in _BY_PARTS:
            autocast.impl(name, _overload(name).decompose)
        autograd.impl("softmax.int", _softmax)
        autograd.impl("log_softmax.int", _log_softmax)
        autograd.impl("dropout", _dropout)
        autograd.impl("scaled_dot_product_attention", _attention_on(device))
    try:
        yield
    finally:
        autocast._destroy()
        autograd._destroy()


def _overload(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(_aten, packet), overload or "default")


def _to_fp32(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype is not torch.float64:
        return value.to(torch.float32)
    if isinstance(value, (list, tuple)):
        return type(value)(_to_fp32(item) for item in value)
    return value


def _in_fp32(operator: Any) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with _ExcludeDispatchKeyGuard(_AUTOCAST):
            return operator(*(_to_fp32(arg) for arg in args), **{key: _to_fp32(arg) for key, arg in kwargs.items()})

    return run


def _with_fp32_dtype(operator: Any) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        first = args[0]
        eligible = first.is_floating_point() and first.dtype is not torch.float64
        if eligible and not any(isinstance(arg, torch.dtype) for arg in (*args, *kwargs.values())):
            positional = [argument.name for argument in operator._schema.arguments]
            if len(args) > positional.index("dtype"):
                args = tuple(
                    torch.float32 if name == "dtype" else arg for name, arg in zip(positional, args, strict=False)
                )
            else:
                kwargs = {**kwargs, "dtype": torch.float32}
        with _ExcludeDispatchKeyGuard(_AUTOCAST):
            return operator(*args, **kwargs)

    return run


def _untouched(operator: Any) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with _ExcludeDispatchKeyGuard(_AUTOCAST):
            return operator(*args, **kwargs)

    return run


def _softmax(tensor: Any, dim: int, dtype: torch.dtype | None = None) -> Any:
    # SoftMax.cpp: CUDA converts half to float inside the kernel; bfloat16 it converts before.
    if tensor.dtype is torch.float16 and dtype is torch.float32:
        return _aten._softmax.default(tensor, dim, True)
    return _aten._softmax.default(tensor if dtype is None else tensor.to(dtype), dim, False)


def _log_softmax(tensor: Any, dim: int, dtype: torch.dtype | None = None) -> Any:
    if tensor.dtype is torch.float16 and dtype is torch.float32:
        return _aten._log_softmax.default(tensor, dim, True)
    return _aten._log_softmax.default(tensor if dtype is None else tensor.to(dtype), dim, False)


def _dropout(tensor: Any, probability: float, train: bool) -> Any:
    # Dropout.cpp: CUDA's fused kernel keeps a bool mask; the CPU keeps one of the input's type.
    if not train or probability == 0 or tensor.numel() == 0:
        return tensor
    return _aten.native_dropout.default(tensor, probability, True)[0]


def _attention_on(device: DeviceKind) -> Callable[..., Any]:
    def run(
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Any:
        return scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa, device=device
        )

    return run
