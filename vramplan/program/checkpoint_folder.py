"""Checkpoints as users have them: loaded by from_pretrained, or written with random weights to be loaded so."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from vramplan.core.run import LoadSpec
from vramplan.errors import UsageError
from vramplan.program.bitsandbytes_kernels import import_bitsandbytes
from vramplan.program.load import build_config, build_skeleton, quantization_config, torch_dtype, upcast

_SHARD = "2GB"
_PATTERN_ELEMENTS = 1 << 22
_STANDARD_DEVIATION = 0.02  # initializer_range of most configs


def load_checkpoint(folder: str, load: LoadSpec, attention: str, device: torch.device, *, moves: bool = False) -> Any:
    """A model from a folder or the Hub, straight onto the device, quantised on the way.

    Args:
        folder: the checkpoint.
        load: its precision.
        attention: which attention code runs.
        device: where it goes.
        moves: into host memory first, and from there onto the device; quantised ones have no such way.
    """
    options: dict[str, Any] = {}
    moves = moves and not load.quantization.is_bitsandbytes
    if load.quantization.is_bitsandbytes:
        import_bitsandbytes()
        options["quantization_config"] = quantization_config(load)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch_dtype(load.dtype),
            attn_implementation=attention,
            device_map={"": "cpu" if moves else str(device)},
            trust_remote_code=False,
            **options,
        )
    model.config.use_cache = True
    if load.kbit_fp32_upcast:
        upcast(model, lambda _: None, norms_only=load.kbit_norms_only)
    return model.to(device).eval() if moves else model.eval()


def write_random_checkpoint(config: Mapping[str, Any], load: LoadSpec, folder: Path) -> None:
    """Writes a sharded safetensors checkpoint with random weights of the config's shapes.

    Args:
        config: the parsed `config.json`.
        load: the stored dtype is its dtype.
        folder: is made.

    Raises:
        UsageError: the disk has no room for it.
    """
    model = build_skeleton(build_config(config), LoadSpec(dtype=load.dtype), "eager")
    num_bytes = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    folder.mkdir(parents=True)
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < num_bytes * 1.05:
        raise UsageError(
            f"a random checkpoint of {num_bytes:,} bytes has no room in {folder}, where {free_bytes:,} are free",
            hint="set TMPDIR to a larger disk, or measure with --weights random",
        )
    model.to_empty(device="cpu")
    model.tie_weights()
    pattern = torch.empty(_PATTERN_ELEMENTS).normal_(0, _STANDARD_DEVIATION)
    done: set[int] = set()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.data_ptr() not in done:  # tied ones once
                done.add(parameter.data_ptr())
                _repeat(pattern, parameter.data)
    model.save_pretrained(folder, max_shard_size=_SHARD)


def _repeat(pattern: torch.Tensor, target: torch.Tensor) -> None:
    """Fills a tensor with copies of a pattern: a copy is some ten times faster than new random numbers."""
    flat = target.view(-1)
    for begin in range(0, flat.numel(), pattern.numel()):
        part = flat[begin : begin + pattern.numel()]
        part.copy_(pattern[: part.numel()])
