"""What CUDA's other kernels allocate beside their outputs, as torch code."""

# ruff: noqa: ARG001 - signatures are the operators' own

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

_aten = torch.ops.aten
_ROWS_PER_THREAD = 10  # NROWS_PER_THREAD in EmbeddingBackwardKernel.cu
_NO_SORT_LIMIT = 3072  # embedding_dense_backward_cuda takes the unsorted kernel up to here


def cuda_kernels() -> Mapping[Any, Callable[..., Any]]:
    """Operator to what it allocates."""
    grouped = {_aten._grouped_mm.default: _grouped_mm} if hasattr(_aten, "_grouped_mm") else {}
    return {
        **grouped,
        _aten._softmax.default: _softmax,
        _aten._log_softmax.default: _softmax,
        _aten._softmax_backward_data.default: _softmax_backward,
        _aten._log_softmax_backward_data.default: _log_softmax_backward,
        _aten.embedding_dense_backward.default: _embedding_backward,
        _aten.scatter_add.default: _scatter_add,
    }


def _softmax(tensor: Any, dim: int, half_to_float: bool) -> Any:
    tensor = tensor.contiguous()
    return tensor.new_empty(tensor.shape, dtype=torch.float32 if half_to_float else tensor.dtype)


def _softmax_backward(grad: Any, output: Any, dim: int, input_dtype: torch.dtype) -> Any:
    # SoftMax.cu, softmax_backward_cuda_out: `Tensor tmp = grad * output`
    grad_input = grad.new_empty(grad.shape, dtype=input_dtype)
    product = torch.mul(grad, output)
    return _log_softmax_backward(product, output, dim, input_dtype, grad_input)


def _log_softmax_backward(grad: Any, output: Any, dim: int, input_dtype: torch.dtype, grad_input: Any = None) -> Any:
    if grad_input is None:
        grad_input = grad.new_empty(grad.shape, dtype=input_dtype)
    grad, output = grad.contiguous(), output.contiguous()
    return grad_input


def _scatter_add(values: Any, dim: int, index: Any, source: Any) -> Any:
    # FunctionsManual.cpp, gather_backward: in place on plain tensors, a copy only for subclasses such as fake ones.
    node = torch._C._current_autograd_node()
    derives_gather = node is not None and node.name().startswith("GatherBackward")
    return values if derives_gather else values.new_empty(values.shape)


def _embedding_backward(grad: Any, indices: Any, num_weights: int, padding_idx: int, scale_grad_by_freq: bool) -> Any:
    indices = indices.contiguous()
    grad = grad.contiguous()
    count, width = indices.numel(), grad.shape[-1]
    if count <= _NO_SORT_LIMIT and not scale_grad_by_freq:
        return grad.new_empty((num_weights, width))
    # Embedding.cu: radix sort of (index, position) pairs; EmbeddingBackwardKernel.cu: fp32 sums of partial segments
    sorted_indices, positions = indices.new_empty(count), indices.new_empty(count)
    weight = grad.new_empty((num_weights, width))
    segments = min(count, num_weights)
    partial = count // _ROWS_PER_THREAD + segments
    _offsets = [indices.new_empty(size) for size in (segments, segments, segments, partial)]
    _partial_sums = grad.new_empty((partial, width), dtype=torch.float32)
    del sorted_indices, positions
    return weight


def _grouped_mm(a: Any, b: Any, offs: Any = None, bias: Any = None, out_dtype: Any = None) -> Any:
    """Matrices of all experts in one kernel; a dimension that is divided among experts has `offs` as its borders."""
    if a.dim() == 2 and b.dim() == 2:
        shape: tuple[int, ...] = (offs.shape[0], a.shape[0], b.shape[1])
    elif a.dim() == 2:
        shape = (a.shape[0], b.shape[2])
    elif b.dim() == 2:
        shape = (a.shape[1], b.shape[1])
    else:
        shape = (a.shape[0], a.shape[1], b.shape[2])
    return a.new_empty(shape, dtype=out_dtype or a.dtype)
