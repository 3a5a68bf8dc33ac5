"""Settings that were given and do nothing in the run they were given for."""

from __future__ import annotations

from collections.abc import Iterator

from vramplan.core.report import Finding
from vramplan.core.run import RolloutBackend, Run
from vramplan.formula.estimate import Estimate
from vramplan.formula.setting import Setting
from vramplan.runfiles.flat import FlatRun

OF_TRAINING = ("optim", "gradient_checkpointing", "gradient_accumulation_steps", "mixed_precision", "tuning")
OF_ADAPTERS = ("lora_r", "lora_target_modules", "adapter_dtype")
OF_ROLLOUT = ("generations", "rollout")
OF_ENGINE = ("vllm_gpu_memory_utilization", "vllm_sleep")


def idle_settings(flat: FlatRun, setting: Setting, _result: Estimate) -> Iterator[Finding]:
    """VP027."""
    named = [name for name, counts in _counts(flat, setting.run) if not counts and getattr(flat, name) is not None]
    if named:
        verb, them = ("does", "it") if len(named) == 1 else ("do", "them")
        yield Finding(
            rule="VP027",
            message=f"{' and '.join(named)} {verb} nothing in this run",
            hint=f"leave {them} out, or name the method and the roles that use {them}",
            source="vramplan/planner/resolve.py: which settings each method has",
        )


def _counts(flat: FlatRun, run: Run) -> Iterator[tuple[str, bool]]:
    """Each setting that not every run has, and whether this one does."""
    roles, training, rollout = {role.name for role in run.roles}, run.training, run.rollout
    for name in ("teacher", "student", "reference"):
        yield f"{name}_quantization", name in roles
    yield "offload", not set(flat.offload or ()) - roles
    yield "beta", run.beta is not None
    for name in OF_TRAINING:
        yield name, training is not None
    for name in OF_ADAPTERS:
        yield name, training is not None and training.lora is not None
    for name in OF_ROLLOUT:
        yield name, run.method.rolls_out
    for name in OF_ENGINE:
        yield name, rollout is not None and rollout.backend is RolloutBackend.VLLM_COLOCATE
    yield "sharding", flat.sharding == "none" or run.sharding.num_gpus > 1
    yield "double_quant", not flat.double_quant or any(role.load.double_quant for role in run.roles)
    yield "kbit_fp32_upcast", not flat.kbit_fp32_upcast or any(role.load.kbit_fp32_upcast for role in run.roles)
