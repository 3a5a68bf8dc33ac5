"""Gpu to the TOML that `read_gpu` reads: how `vramplan calibrate` writes a user's profile of a card."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from vramplan.core.device import Gpu, default_cublas_workspace_bytes
from vramplan.errors import UsageError
from vramplan.units import MiB

MARK = "# Written by `vramplan calibrate`, and replaced by it: write your own under another name."


def gpu_to_toml(gpu: Gpu) -> str:
    """The file's text: `read_gpu` of it gives the card again, its context measured."""
    return "\n".join([MARK, *_lines(gpu)]) + "\n"


def write_gpu(gpu: Gpu, path: Path) -> None:
    """Write a profile, unless one is there that somebody else wrote.

    Raises:
        UsageError: there is one, or the file cannot be written.
    """
    try:
        if path.exists() and not path.read_text(encoding="utf-8").startswith(MARK):
            raise UsageError(
                f"{path} was not written by calibrate, and is left as it is",
                hint="move it away, or choose another folder with --output",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not at all: an estimate may be reading it.
        beside = path.with_name(f".{path.name}.new")
        beside.write_text(gpu_to_toml(gpu), encoding="utf-8")
        beside.replace(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from error


def _lines(gpu: Gpu) -> Iterator[str]:
    yield f"label = {_text(gpu.label)}"
    if gpu.aliases:
        yield f"aliases = [{', '.join(map(_text, gpu.aliases))}]"
    yield from ("", "[memory]", f"total = {_size(gpu.total_bytes)}", f"source = {_text(gpu.total_source)}")
    if gpu.torch_total_bytes is not None and gpu.torch_total_source is not None:
        yield from ("", "[torch]", f"total = {_size(gpu.torch_total_bytes)}")
        yield f"source = {_text(gpu.torch_total_source)}"
    major, minor = gpu.compute_capability
    yield from ("", "[chip]", f'compute_capability = "{major}.{minor}"')
    yield f"multiprocessors = {gpu.num_multiprocessors}"
    yield f"source = {_text(gpu.chip_source)}"
    yield from ("", "[context]", f"measured = {_size(gpu.context_bytes)}", f"source = {_text(gpu.context_source)}")
    if gpu.cublas_workspace_bytes != default_cublas_workspace_bytes(gpu.compute_capability):
        yield from ("", "[workspace]", f"cublas = {_size(gpu.cublas_workspace_bytes)}")
        yield f"source = {_text(gpu.context_source)}"
    if gpu.band_source is not None:
        yield from ("", "[band]")
        for kind, band in (("training", gpu.training_band), ("inference", gpu.inference_band)):
            if band is not None:
                yield f"{kind} = [{float(band[0])}, {float(band[1])}]"
        yield f"source = {_text(gpu.band_source)}"


def _size(num_bytes: int) -> str:
    return f'"{num_bytes // MiB}MiB"' if num_bytes % MiB == 0 else f'"{num_bytes}B"'


def _text(text: str) -> str:
    # A JSON string is a TOML basic string, but for the delete character, which no name or source has.
    return json.dumps(text, ensure_ascii=False)
