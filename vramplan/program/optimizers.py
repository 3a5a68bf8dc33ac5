"""transformers' `--optim` names as the optimizers the Trainer makes of them."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from typing import Any

import torch

from vramplan.errors import UsageError

_PAGED_ELEMENTS = 1e5  # bitsandbytes/optim/optimizer.py, get_state_buffer: smaller states stay on the device


def make_optimizer(
    name: str, parameters: list[Any], on_host: Any, fp32_states: Collection[int] = ()
) -> torch.optim.Optimizer:
    """The optimizer of a `--optim` name, over trainable parameters.

    Args:
        name: as transformers spells it.
        parameters: what it updates.
        on_host: gives a context in which tensors live in host memory; None on a device, where bitsandbytes pages.
        fp32_states: ids of the parameters whose states an 8-bit optimizer keeps in fp32.

    Raises:
        UsageError: no such optimizer here.
    """
    if name in ("adamw_torch", "adamw_hf"):
        return torch.optim.AdamW(parameters, foreach=True)
    if name == "adamw_torch_fused":
        return torch.optim.AdamW(parameters, fused=True)
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=1e-3, foreach=True)
    if name == "rmsprop":
        return torch.optim.RMSprop(parameters, foreach=True)
    if name == "adagrad":
        return torch.optim.Adagrad(parameters, foreach=True)
    if name == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(parameters, lr=1e-3, scale_parameter=False, relative_step=False)
    eight_bit = {"adamw_8bit": False, "adamw_bnb_8bit": False, "paged_adamw_8bit": True, "paged_adamw_32bit": True}
    if name not in eight_bit and name != "paged_adamw":
        raise UsageError(f"no optimizer {name!r} is known", hint="use a name of transformers' --optim, as adamw_torch")
    return _bitsandbytes(name, parameters, on_host, frozenset(fp32_states))


def _bitsandbytes(name: str, parameters: list[Any], on_host: Any, fp32_states: frozenset[int]) -> Any:
    import bitsandbytes as bnb

    paged = name.startswith("paged")
    bits = 32 if name in ("paged_adamw_32bit", "paged_adamw") else 8
    optimizer: Any = bnb.optim.AdamW(parameters, optim_bits=bits, is_paged=paged and on_host is None)
    config_of = optimizer.get_config

    def get_config(group_index: int, index: int, group: Any) -> Any:
        """What GlobalOptimManager.register_module_override does, without its memory of every model there ever was."""
        config = config_of(group_index, index, group)
        return {**config, "optim_bits": 32} if id(group["params"][index]) in fp32_states else config

    optimizer.get_config = get_config
    if not paged or on_host is None:
        return optimizer

    def state_buffer(parameter: Any, dtype: torch.dtype = torch.float32) -> Any:
        if parameter.numel() < _PAGED_ELEMENTS:
            return torch.zeros_like(parameter, dtype=dtype)
        context: AbstractContextManager[None] = on_host()
        with context:  # managed memory is not the caching allocator's
            return torch.zeros(parameter.shape, dtype=dtype)

    optimizer.get_state_buffer = state_buffer
    return optimizer
