"""From flat settings to a report: resolve models, versions, card and run, then estimate."""

from __future__ import annotations

from dataclasses import replace

from vramplan.archs import read_model
from vramplan.catalog.dirs import ProfileDirs, ProfileFile
from vramplan.catalog.gpus import find_gpu, load_gpu, nearest_gpu
from vramplan.catalog.stacks import load_stack
from vramplan.core.device import Gpu
from vramplan.core.model import ModelShape
from vramplan.core.quick import dataclass
from vramplan.core.report import MemoryReport
from vramplan.formula.estimate import estimate
from vramplan.formula.setting import Setting
from vramplan.planner.report_of import Prepared, report_of
from vramplan.planner.resolve import resolve, role_models
from vramplan.runfiles.flat import FlatRun
from vramplan.sources import ModelSource, resolve_model, stored_dtype_label

DEFAULT_GPU = "a100-80gb"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model's shape and where it was found."""

    shape: ModelShape
    source: ModelSource


def answer(flat: FlatRun, *, profile_dirs: ProfileDirs, run_id: str | None = None) -> MemoryReport:
    """Estimate a run.

    Args:
        flat: its settings; everything else takes the trainer's own default.
        profile_dirs: where profiles lie.
        run_id: the id to hand back.

    Raises:
        VramplanError: a setting, a model or a card is not known, or the run cannot exist.
    """
    prepared = prepare(flat, profile_dirs)
    phases = estimate(prepared[0]).phases
    return report_of(flat, prepared, phases, how="estimate", profile_dirs=profile_dirs, run_id=run_id)


def prepare(flat: FlatRun, profile_dirs: ProfileDirs) -> Prepared:
    """Everything an estimate or a simulation starts from, with what the user should be told.

    Returns:
        The setting, notes of the sources, and assumptions.
    """
    stack = load_stack(flat.stack or {}, profile_dirs)
    gpu, gpu_note = _gpu(flat, profile_dirs)
    loaded = {
        name: load_model(reference, profile_dirs, flat.architecture)
        for name, reference in role_models(flat, stack).items()
    }
    models = {name: one.shape for name, one in loaded.items()}
    resolved = resolve(flat, models, stack)
    notes = list(dict.fromkeys(note for one in loaded.values() for note in one.source.notes))
    return (
        Setting(run=resolved.run, models=models, stack=stack, gpu=gpu),
        notes,
        [*gpu_note, *dict.fromkeys(resolved.assumptions)],
    )


_MODELS: dict[tuple[str, str | None, ProfileDirs], Loaded] = {}


def load_model(reference: str, profile_dirs: ProfileDirs, architecture: str | None) -> Loaded:
    """A model's shape by any kind of reference; kept for the other runs of one process."""
    key = (reference, architecture, profile_dirs)
    if key not in _MODELS:
        source = resolve_model(reference, profiles=profile_dirs)
        shape = read_model(source.config, architecture=architecture)
        stored = stored_dtype_label(source.headers)
        if stored is not None and shape.stored_quantization is None:
            shape = replace(shape, stored_dtype=stored)
        _MODELS[key] = Loaded(shape=shape, source=source)
    return _MODELS[key]


def _gpu(flat: FlatRun, profile_dirs: ProfileDirs) -> tuple[Gpu, list[str]]:
    """The card that was named, else the one whose memory is nearest to the budget."""
    if flat.gpu is not None:
        return load_gpu(flat.gpu, profile_dirs), _shadowing(find_gpu(flat.gpu, profile_dirs))
    if flat.gpu_mem is None:
        gpu = load_gpu(DEFAULT_GPU, profile_dirs)
        note = f"context and kernels as on {gpu.label}; name another card with --gpu"
        return gpu, [note, *_shadowing(profile_dirs.find("gpus", gpu.name))]
    gpu = nearest_gpu(flat.gpu_mem, profile_dirs)
    note = f"context and kernels as on {gpu.label}, the nearest card to the budget"
    return gpu, [note, *_shadowing(profile_dirs.find("gpus", gpu.name))]


def _shadowing(file: ProfileFile) -> list[str]:
    """A user's own profile of a card, as `vramplan calibrate` writes, is named where it is used."""
    return [] if file.note is None else [file.note]
