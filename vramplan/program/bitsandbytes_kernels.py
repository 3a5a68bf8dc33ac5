"""bitsandbytes as on CUDA: its own autograd code, with what its CUDA kernels allocate in place of the CPU's."""

# ruff: noqa: ARG001 - signatures are the operators' own

from __future__ import annotations

import ast
import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from vramplan.program.device_kind import DeviceKind

_GEMM_FLOOR = 4  # _GEMM_4BIT_CUSTOM_FLOOR_M in bitsandbytes/backends/cuda/ops.py (0.50.2)
_GEMM_CEILING = 1536  # _gemm_4bit_custom_max_m, same file


def bitsandbytes_kernels(device: DeviceKind) -> Mapping[Any, Callable[..., Any]]:
    """bitsandbytes' operators to what their CUDA kernels allocate; empty where it is not installed."""
    if find_spec("bitsandbytes") is None:
        return {}
    import_bitsandbytes()  # registers its operators
    operators = torch.ops.bitsandbytes
    kernels: dict[Any, Callable[..., Any]] = {}
    if hasattr(operators, "int8_vectorwise_quant"):
        kernels[operators.int8_vectorwise_quant.default] = _int8_vectorwise_quant
        kernels[operators.int8_scaled_mm.default] = _int8_scaled_mm
    if hasattr(operators, "int8_mixed_scaled_mm"):
        kernels[operators.int8_mixed_scaled_mm.default] = _int8_mixed_scaled_mm
    if hasattr(operators, "gemm_4bit"):
        kernels[operators.gemm_4bit.default] = functools.partial(_gemm_4bit, device)
    return kernels


def import_bitsandbytes() -> Any:
    """The package, without its remarks about kernels for CPUs."""
    logging.disable(logging.WARNING)
    try:
        import bitsandbytes
    finally:
        logging.disable(logging.NOTSET)
    return bitsandbytes


@contextmanager
def bitsandbytes_on_cuda() -> Iterator[None]:
    """Takes the CUDA branches of bitsandbytes where it asks for a tensor's device."""
    if find_spec("bitsandbytes") is None:
        yield
        return
    bnb = import_bitsandbytes()
    from bitsandbytes.autograd import _functions
    from bitsandbytes.nn import modules

    def matmul(a: Any, b: Any, out: Any = None, state: Any = None, threshold: float = 0.0, bias: Any = None) -> Any:
        state = state or _functions.MatmulLtState()
        if threshold > 0.0:
            state.threshold = threshold
        return _functions.MatMul8bitLt.apply(a, b, out, bias, state)

    maps = dict(bnb.functional.name2qmap)
    replaced: list[tuple[Any, str, Any]] = [(bnb, "matmul", matmul), (modules.bnb, "matmul", matmul)]
    # Modules decide when they are made, which may be before this; so the packing itself is made to do nothing.
    if hasattr(modules, "_convert_weight_packed_for_cpu"):
        replaced.append((modules, "_convert_weight_packed_for_cpu", lambda data, state: (data, state)))
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    loggers = [logging.getLogger(name) for name in ("bitsandbytes.autograd._functions", "bitsandbytes.nn.modules")]
    levels = [logger.level for logger in loggers]
    bnb.functional.name2qmap.clear()  # lookup tables cached across simulations would be another simulation's tensors
    try:
        for owner, name, replacement in replaced:
            setattr(owner, name, replacement)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        bnb.functional.name2qmap.clear()
        bnb.functional.name2qmap.update(maps)


def _int8_vectorwise_quant(activations: Any, threshold: float = 0.0) -> tuple[Any, Any, Any]:
    row_stats = activations.new_empty(activations.numel() // activations.shape[-1], dtype=torch.float32)
    quantized = activations.new_empty(activations.shape, dtype=torch.int8)
    if not threshold:
        return quantized, row_stats, None
    outliers = activations.abs() >= threshold
    _any = outliers.any()
    # Which columns hold outliers depends on the data: none are assumed.
    return quantized, row_stats, activations.new_empty(0, dtype=torch.int64)


def _int8_scaled_mm(a: Any, b: Any, row_stats: Any, col_stats: Any, bias: Any = None, dtype: Any = None) -> Any:
    product = a.new_empty((*a.shape[:-1], b.shape[0]), dtype=torch.int32)
    out = torch.empty_like(product, dtype=torch.float16)
    return out.to(dtype or torch.float16)


def _int8_mixed_scaled_mm(
    a: Any, ca: Any, cb: Any, sca: Any, scb: Any, outlier_cols: Any = None, bias: Any = None
) -> tuple[Any, Any]:
    return _int8_scaled_mm(ca, cb, sca, scb, bias, a.dtype), a.new_empty(0)


def _gemm_4bit(
    device: DeviceKind,
    a: Any,
    b: Any,
    shape: Any,
    absmax: Any,
    blocksize: int,
    quant_type: str,
    bias: Any = None,
    absmax_8bit: Any = None,
    absmax_code: Any = None,
    absmax_offset: Any = None,
) -> Any:
    rows, columns = shape
    tokens = a.numel() // columns
    if tokens <= _GEMM_CEILING and columns % blocksize == 0 and _fused(device, a.dtype, tokens, rows, columns):
        a = a.contiguous()
        return a.new_empty((*a.shape[:-1], rows))
    if absmax_8bit is not None:
        scaled = torch.empty_like(absmax_8bit, dtype=torch.float32)
        _absmax = scaled + absmax_offset
    weight = a.new_empty((rows, columns))
    return torch.nn.functional.linear(a, weight, bias)


def _fused(device: DeviceKind, dtype: torch.dtype, tokens: int, rows: int, columns: int) -> bool:
    """Whether the installed bitsandbytes multiplies without dequantising the whole weight first."""
    if tokens <= _GEMM_FLOOR:
        return True
    rule = _installed_rule(device)
    return bool(rule(0, dtype, tokens, rows, columns)) if rule is not None else False


@functools.cache
def _installed_rule(device: DeviceKind) -> Callable[..., Any] | None:
    """The installed version's own heuristic, taken out of a module that only loads beside a CUDA driver."""
    spec = find_spec("bitsandbytes")
    if spec is None or spec.origin is None:
        return None
    source = Path(spec.origin).parent / "backends" / "cuda" / "ops.py"
    if not source.is_file():
        return None
    tree = ast.parse(source.read_text(encoding="utf-8"))
    wanted = [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "_gemm_4bit_use_custom_cuda"
    ]
    if not wanted:
        return None
    major, minor = divmod(device.compute_capability, 10)
    namespace: dict[str, Any] = {
        "functools": functools,
        "torch": torch,
        "_GEMM_4BIT_CUSTOM_FLOOR_M": _GEMM_FLOOR,
        "_gpu_dispatch_props": lambda _index: (device.num_sms, major, minor),
    }
    exec(compile(ast.Module(body=list(wanted), type_ignores=[]), str(source), "exec"), namespace)
    rule: Callable[..., Any] = namespace["_gemm_4bit_use_custom_cuda"]
    return rule
