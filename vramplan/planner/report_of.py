"""A report from phases: models, peak, band, budget and warnings are made one way, however the phases are known."""

from __future__ import annotations

from dataclasses import replace

from vramplan.catalog.dirs import ProfileDirs
from vramplan.core.device import Gpu
from vramplan.core.report import Budget, MemoryReport, ModelReport, Peak, Phase, Verdict
from vramplan.core.run import LoadSpec, Quantization, Role
from vramplan.dtypes import DType
from vramplan.formula.band import band_of
from vramplan.formula.estimate import Estimate
from vramplan.formula.setting import Setting
from vramplan.formula.weights import store_model
from vramplan.planner.claims import compare_claims
from vramplan.planner.inputs import resolved_inputs
from vramplan.planner.rules import find_findings
from vramplan.runfiles.flat import FlatRun

Prepared = tuple[Setting, list[str], list[str]]
"""A setting, notes of where its models come from, and what was taken for granted."""


def report_of(
    flat: FlatRun,
    prepared: Prepared,
    phases: tuple[Phase, ...],
    *,
    how: str,
    profile_dirs: ProfileDirs,
    run_id: str | None = None,
) -> MemoryReport:
    """The report of a run whose phases are known.

    Args:
        flat: its settings.
        prepared: its setting, notes and assumptions.
        phases: in the order they happen.
        how: `estimate`, `simulate` or `measure`.
        profile_dirs: where profiles lie.
        run_id: the id to hand back.
    """
    setting, notes, assumptions = prepared
    result = Estimate(phases=phases)
    peak = _peak(result, setting)
    report = MemoryReport(
        how=how,
        id=run_id,
        inputs=resolved_inputs(flat, setting),
        models=tuple(_model_report(setting, role) for role in setting.run.roles),
        phases=phases,
        peak=peak,
        budget=_budget(flat, setting.gpu, peak),
        assumptions=(*notes, *assumptions),
        warnings=find_findings(flat, setting, result),
        versions=dict(setting.stack.versions),
        gpu=setting.gpu.name,
    )
    return replace(report, comparisons=compare_claims(flat.run, report, profile_dirs))


def _model_report(setting: Setting, role: Role) -> ModelReport:
    shape = setting.models[role.name]
    load = role.load
    own = store_model(shape, load, setting.stack)
    names = {"bf16": Quantization.NONE, "int8": Quantization.INT8, "nf4": Quantization.NF4}
    by_precision = {}
    for name, quantization in names.items():
        upcast = load.kbit_fp32_upcast and quantization is not Quantization.NONE
        spec = LoadSpec(
            dtype=DType.BF16,
            quantization=quantization,
            double_quant=load.double_quant and quantization is Quantization.NF4,
            kbit_fp32_upcast=upcast,
            kbit_norms_only=upcast and load.kbit_norms_only,
            kbit_bf16_embeddings=load.kbit_bf16_embeddings and quantization is Quantization.NF4,
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
