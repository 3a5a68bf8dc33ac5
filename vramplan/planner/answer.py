"""From flat settings to a report: resolve models, versions, card and run, then estimate."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vramplan.archs import read_model
from vramplan.catalog.dirs import ProfileDirs
from vramplan.catalog.gpus import load_gpu
from vramplan.catalog.stacks import load_stack
from vramplan.core.device import Gpu
from vramplan.core.model import ModelShape
from vramplan.core.report import Budget, MemoryReport, ModelReport, Peak, Verdict
from vramplan.core.run import LoadSpec, Quantization, Role
from vramplan.dtypes import DType
from vramplan.formula.band import band_of
from vramplan.formula.estimate import Estimate, estimate
from vramplan.formula.setting import Setting
from vramplan.formula.weights import store_model
from vramplan.planner.claims import compare_claims
from vramplan.planner.inputs import resolved_inputs
from vramplan.planner.resolve import resolve, role_models
from vramplan.planner.rules import find_findings
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
    setting, notes, assumptions = prepare(flat, profile_dirs)
    result = estimate(setting)
    gpu, run = setting.gpu, setting.run
    peak = _peak(result, setting)
    report = MemoryReport(
        how="estimate",
        id=run_id,
        inputs=resolved_inputs(flat, setting),
        models=tuple(_model_report(setting, role) for role in run.roles),
        phases=result.phases,
        peak=peak,
        budget=_budget(flat, gpu, peak),
        assumptions=(*notes, *assumptions),
        warnings=find_findings(flat, setting, result),
        versions=dict(setting.stack.versions),
        gpu=gpu.name,
    )
    return replace(report, comparisons=compare_claims(flat.run, report, profile_dirs))


def prepare(flat: FlatRun, profile_dirs: ProfileDirs) -> tuple[Setting, list[str], list[str]]:
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


_MODELS: dict[tuple[str, str | None, int], Loaded] = {}


def load_model(reference: str, profile_dirs: ProfileDirs, architecture: str | None) -> Loaded:
    """A model's shape by any kind of reference; kept for the other runs of one process."""
    key = (reference, architecture, id(profile_dirs))
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
        return load_gpu(flat.gpu, profile_dirs), []
    if flat.gpu_mem is None:
        gpu = load_gpu(DEFAULT_GPU, profile_dirs)
        return gpu, [f"context and kernels as on {gpu.label}; name another card with --gpu"]
    cards = (load_gpu(name, profile_dirs) for name in profile_dirs.names("gpus"))
    budget = flat.gpu_mem
    gpu = min(cards, key=lambda card: (abs(card.total_bytes - budget), -card.compute_capability[0], card.name))
    return gpu, [f"context and kernels as on {gpu.label}, the nearest card to the budget"]


def _model_report(setting: Setting, role: Role) -> ModelReport:
    shape = setting.models[role.name]
    load = role.load
    own = store_model(shape, load, setting.stack)
    names = {"bf16": Quantization.NONE, "int8": Quantization.INT8, "nf4": Quantization.NF4}
    by_precision = {}
    for name, quantization in names.items():
        spec = LoadSpec(
            dtype=DType.BF16,
            quantization=quantization,
            double_quant=load.double_quant and quantization is Quantization.NF4,
            kbit_fp32_upcast=load.kbit_fp32_upcast and quantization is not Quantization.NONE,
        )
        by_precision[name] = sum(stored.num_bytes for stored in store_model(shape, spec, setting.stack))
    precision = load.dtype.label if load.quantization is Quantization.NONE else load.quantization.value
    if load.double_quant:
        precision += " (double quant)"
    return ModelReport(
        role=role.name,
        id=role.model,
        parameters=shape.num_parameters,
        weights_bytes=0 if role.shares else sum(stored.num_bytes for stored in own),
        by_precision=by_precision,
        precision=precision,
    )


def _peak(result: Estimate, setting: Setting) -> Peak:
    """The deciding phase, and the highest each quantity gets in the run, as torch's and the driver's peaks are."""
    phase = result.peak
    component = max(
        {entry.component for entry in phase.entries}, key=lambda one: (phase.component_bytes(one), one.value)
    )
    device_used = max(one.device_used_bytes for one in result.phases)
    low, high = band_of(setting, device_used)
    return Peak(
        phase=phase.name,
        component=component,
        allocated_bytes=max(one.allocated_bytes for one in result.phases),
        reserved_bytes=max(one.reserved_bytes for one in result.phases),
        device_used_bytes=device_used,
        low_bytes=low,
        high_bytes=high,
    )


def _budget(flat: FlatRun, gpu: Gpu, peak: Peak) -> Budget | None:
    if flat.gpu_mem is not None:
        num_bytes = flat.gpu_mem
    elif flat.gpu is not None:
        num_bytes = gpu.total_bytes
    else:
        return None
    if peak.high_bytes <= num_bytes:
        verdict = Verdict.FITS
    elif peak.low_bytes <= num_bytes:
        verdict = Verdict.UNCERTAIN
    else:
        verdict = Verdict.DOES_NOT_FIT
    return Budget(bytes=num_bytes, verdict=verdict, margin_bytes=num_bytes - peak.device_used_bytes)
