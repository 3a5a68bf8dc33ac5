"""profiles/gpus/*.toml to Gpu."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from vramplan.catalog.dirs import ProfileDirs, ProfileFile, suggestion
from vramplan.catalog.toml_file import Table, read_toml
from vramplan.core.device import (
    MODELLED_CONTEXT_SOURCE,
    ContextBasis,
    Gpu,
    default_cublas_workspace_bytes,
    modelled_context_bytes,
)
from vramplan.errors import UsageError
from vramplan.units import parse_bytes

_CAPABILITY = re.compile(r"^(\d+)\.(\d+)$")


@lru_cache(maxsize=64)
def load_gpu(name: str, dirs: ProfileDirs) -> Gpu:
    """A card by profile name, by one of its aliases, by the driver's name for it, or by a path to a `.toml`.

    Raises:
        UsageError: no card has that name, or its file has a mistake.
    """
    return read_gpu(find_gpu(name, dirs).path)


OLDEST_GUESSED_CAPABILITY = 8
"""A budget alone says nothing of the chip: one with bf16 and flash attention is taken."""

_SKIMMED = re.compile(
    r"""^\[memory\].*?^total *= *"(?P<total>[^"]+)".*?^compute_capability *= *"(?P<major>\d+)""", re.M | re.S
)


@lru_cache(maxsize=8)
def nearest_gpu(total_bytes: int, dirs: ProfileDirs) -> Gpu:
    """The card whose memory is nearest to a budget, of those of compute capability 8.0 and newer.

    The files are skimmed for the two values that decide, and only the chosen one is read in full.
    """
    distances: list[tuple[int, int, str]] = []
    for name in dirs.names("gpus"):
        match = _SKIMMED.search(dirs.find("gpus", name).path.read_text(encoding="utf-8"))
        if match is not None and int(match["major"]) >= OLDEST_GUESSED_CAPABILITY:
            distances.append((abs(parse_bytes(match["total"]) - total_bytes), -int(match["major"]), name))
    if not distances:
        raise UsageError("there is no GPU profile to take a context from", hint="name one with --gpu")
    return load_gpu(min(distances)[2], dirs)


def find_gpu(name: str, dirs: ProfileDirs) -> ProfileFile:
    """The file that `load_gpu` reads, and whether it hides a shipped one.

    Raises:
        UsageError: no card has that name; the hint names the nearest.
    """
    if name.endswith(".toml"):
        path = Path(name).expanduser()
        if not path.is_file():
            raise UsageError(f"there is no file {path}")
        return ProfileFile(kind="gpus", name=path.stem, path=path)
    wanted = _normal(name)
    found = dirs.lookup("gpus", wanted)
    if found is not None:
        return found
    for known in dirs.names("gpus"):  # 24 small files: read only when no file has the name
        candidate = dirs.find("gpus", known)
        gpu = read_gpu(candidate.path)
        if wanted in {_normal(other) for other in (gpu.label, *gpu.aliases)}:
            return candidate
    raise UsageError(
        f"there is no GPU profile called {name!r}",
        hint=suggestion(wanted, dirs.names("gpus"), "GPUs") + "; or give the memory alone, as --gpu-mem 81559MiB",
    )


def read_gpu(path: Path) -> Gpu:
    """One file.

    Raises:
        UsageError: a key is missing, unknown or wrong, or a number has no source.
    """
    top = read_toml(path)
    label, aliases = top.string("label"), top.strings("aliases")
    memory, chip = top.table("memory"), top.table("chip")
    torch, context = top.optional_table("torch"), top.optional_table("context")
    workspace, band = top.optional_table("workspace"), top.optional_table("band")
    top.done()
    capability = _capability(chip)
    num_multiprocessors = chip.positive_integer("multiprocessors")
    context_bytes, context_basis, context_source = _context(top, context, capability, num_multiprocessors)
    try:
        gpu = Gpu(
            name=path.stem,
            label=label,
            aliases=aliases,
            total_bytes=memory.size_bytes("total"),
            total_source=memory.string("source"),
            torch_total_bytes=None if torch is None else torch.size_bytes("total"),
            torch_total_source=None if torch is None else torch.string("source"),
            compute_capability=capability,
            num_multiprocessors=num_multiprocessors,
            chip_source=chip.string("source"),
            context_bytes=context_bytes,
            context_basis=context_basis,
            context_source=context_source,
            cublas_workspace_bytes=_workspace(workspace, capability),
            training_band=None if band is None else band.optional_pair("training"),
            inference_band=None if band is None else band.optional_pair("inference"),
            band_source=None if band is None else band.string("source"),
        )
    except UsageError:
        raise
    except ValueError as error:
        raise top.error(str(error)) from error
    for table in (memory, chip, torch, workspace, band):
        if table is not None:
            table.done()
    return gpu


def _capability(chip: Table) -> tuple[int, int]:
    match = _CAPABILITY.match(chip.string("compute_capability"))
    if match is None:
        raise chip.error('chip.compute_capability is not written as in "9.0"', key="compute_capability")
    return int(match[1]), int(match[2])


def _workspace(workspace: Table | None, capability: tuple[int, int]) -> int:
    """PyTorch's default, unless runs on the card showed another (`vramplan calibrate`)."""
    if workspace is None:
        return default_cublas_workspace_bytes(capability)
    workspace.string("source")
    return workspace.size_bytes("cublas")


def _context(
    top: Table, context: Table | None, capability: tuple[int, int], num_multiprocessors: int
) -> tuple[int, ContextBasis, str]:
    if context is not None:
        measured = (context.size_bytes("measured"), context.string("source"))
        context.done()
        return measured[0], "measured", measured[1]
    modelled_bytes = modelled_context_bytes(capability, num_multiprocessors)
    if modelled_bytes is None:
        raise top.error(
            f"the CUDA context of compute capability {capability[0]}.{capability[1]} is not known",
            hint="measure it (device memory used minus torch.cuda.memory_reserved()) and write [context] measured = "
            '"500MiB" with a source',
        )
    return modelled_bytes, "modelled", MODELLED_CONTEXT_SOURCE


def _normal(name: str) -> str:
    """`NVIDIA GeForce RTX 4090` and `rtx_4090` to `rtx-4090`."""
    words = re.split(r"[\s_-]+", name.strip().lower())
    return "-".join(word for word in words if word not in {"nvidia", "geforce", "tesla", "generation"})
