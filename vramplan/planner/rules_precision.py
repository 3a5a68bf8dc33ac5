"""Rules on dtypes and kernels: what a card or a library refuses."""

from __future__ import annotations

from collections.abc import Iterator

from vramplan.core.report import Finding
from vramplan.core.run import AttentionImplementation, Tuning
from vramplan.dtypes import DType
from vramplan.formula.estimate import Estimate
from vramplan.formula.setting import Setting
from vramplan.planner.finding import Rule
from vramplan.runfiles.flat import FlatRun


def half_precision(flat: FlatRun, setting: Setting, _result: Estimate) -> Iterator[Finding]:
    """VP008, VP009."""
    training, role = setting.run.training, setting.run.trained
    if training is not None and training.mixed_precision is DType.BF16 and role.load.dtype is DType.FP16:
        yield Finding(
            rule="VP008",
            message="fp16 weights under bf16 autocast: every product casts them, and nothing is saved",
            hint="load in bf16, or use --mixed-precision fp16",
            source="torch autocast_mode.cpp cached_cast; accelerate refuses fp16 with bf16=True",
        )
    uses_bf16 = training is not None and training.mixed_precision is DType.BF16
    if flat.gpu is not None and uses_bf16 and setting.gpu.compute_capability < (8, 0):
        yield Finding(
            rule="VP009",
            message=f"{setting.gpu.label} has no bf16 units: it is emulated there, slowly, and without fused attention",
            hint="use --dtype fp16 and --mixed-precision fp16",
            source="torch cuda/__init__.py is_bf16_supported counts emulation; sdp_utils.cpp: kernels from 8.0 on",
        )


def attention_code(_flat: FlatRun, setting: Setting, _result: Estimate) -> Iterator[Finding]:
    """VP021, VP022."""
    run = setting.run
    if run.attn_implementation is AttentionImplementation.FLASH_ATTENTION_2 and setting.gpu.compute_capability < (8, 0):
        yield Finding(
            rule="VP021",
            message=f"flash-attn does not run on {setting.gpu.label}",
            hint="use --attn-implementation sdpa",
            source="flash-attn 2 needs compute capability 8.0",
        )
    for role in run.roles:
        attention = setting.models[role.name].layers[0].attention
        if attention.softcap and run.attn_implementation is AttentionImplementation.SDPA:
            yield Finding(
                rule="VP022",
                message=f"{role.name} caps attention scores, which sdpa cannot: transformers refuses or ignores it",
                hint="use --attn-implementation eager for training, as transformers advises",
                source="transformers integrations/sdpa_attention.py: softcap raises",
            )


def fp16_gradients(_flat: FlatRun, setting: Setting, _result: Estimate) -> Iterator[Finding]:
    """VP031."""
    training, role = setting.run.training, setting.run.trained
    if training is None or training.tuning is not Tuning.FULL or training.mixed_precision is not DType.FP16:
        return
    if role.load.dtype is DType.FP16:
        yield Finding(
            rule="VP031",
            message="fp16 weights under fp16 autocast: the gradient scaler refuses fp16 gradients",
            hint="load in fp32 for fp16 autocast, or train in bf16",
            source='torch amp/grad_scaler.py: "Attempting to unscale FP16 gradients."',
        )


def flash_in_fp32(_flat: FlatRun, setting: Setting, _result: Estimate) -> Iterator[Finding]:
    """VP032."""
    run = setting.run
    if run.attn_implementation is not AttentionImplementation.FLASH_ATTENTION_2:
        return
    for role in run.roles:
        if role.load.dtype is DType.FP32 and setting.autocast(role) is None:
            yield Finding(
                rule="VP032",
                message=f"{role.name} runs in fp32, and flash-attn takes 16 bits only",
                hint="load in bf16, use mixed precision, or --attn-implementation sdpa",
                source="flash-attn 2: only fp16 and bf16 are supported",
            )


PRECISION_RULES: tuple[Rule, ...] = (half_precision, attention_code, fp16_gradients, flash_in_fp32)
