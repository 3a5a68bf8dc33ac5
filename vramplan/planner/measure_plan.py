"""A run made ready to be measured: everything that can be refused before a process is started."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from vramplan.allocator.config import AllocatorConfig
from vramplan.catalog.dirs import ProfileDirs
from vramplan.core.device import Gpu
from vramplan.core.run import AttentionImplementation, Quantization, RolloutBackend, Run
from vramplan.errors import CannotTellError, NoHardwareError, UsageError
from vramplan.planner.answer import prepare
from vramplan.planner.bench import Bench
from vramplan.planner.checkpoints import Weights, choose_weights
from vramplan.planner.measured_record import allocator_conf
from vramplan.planner.report_of import Prepared
from vramplan.planner.simulated import NEEDED
from vramplan.records.record import run_key
from vramplan.runfiles.flat import FlatRun
from vramplan.units import KiB

_WITHOUT_ENGINE = "measure the rest with --rollout vllm-server, or hf"
LONGEST_SECONDS = 7 * 24 * 3600.0
"""More than any run takes; timers of threads overflow at some 292 years."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How a run is measured.

    Args:
        weights: `checkpoint`, `random`, `random-checkpoint`, or None for a checkpoint that is here, else random.
        steps: optimizer updates.
        timeout_seconds: the process is ended after that long.
        conf: PYTORCH_ALLOC_CONF, None for that of this process.
        cublas_workspace_config: CUBLAS_WORKSPACE_CONFIG, None for that of this process.
        simulates: whether the run is simulated as well, while it is measured.
        snapshots: folder for a memory snapshot where the allocator throws; None writes none.
    """

    weights: str | None = None
    steps: int = 2
    timeout_seconds: float = 600.0
    conf: str | None = None
    cublas_workspace_config: str | None = None
    simulates: bool = True
    snapshots: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A run that is ready to be measured.

    Args:
        flat: its settings, the card among them.
        prepared: its setting, notes and assumptions.
        weights: where its weights come from.
        conf: PYTORCH_ALLOC_CONF.
        key: what a matrix knows it by.
        note: what to know of it, or None.
    """

    flat: FlatRun
    prepared: Prepared
    weights: Weights
    conf: str
    key: str
    note: str | None = None


def plan_run(flat: FlatRun, manner: Manner, bench: Bench, profile_dirs: ProfileDirs) -> Planned:
    """Everything that can be refused before a process is started.

    Raises:
        VramplanError: a setting, a model or a card is not known, the run cannot exist, or not be measured here.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise NoHardwareError(
            f"measure runs the real code and needs {', '.join(missing)}",
            hint="python3 -m pip install 'vramplan[torch]', or use `vramplan estimate`",
        )
    named, flat = flat.stack, replace(flat, stack=None)
    if flat.gpu is None and bench.profile is not None:
        flat = replace(flat, gpu=bench.profile)
    prepared = prepare(flat, profile_dirs)
    setting = prepared[0]
    _refuse(setting.run, bench)
    models = {role.name: role.model for role in setting.run.roles if role.shares is None}
    weights = choose_weights(manner.weights, models)
    _refuse_engine(setting.run, weights)
    conf = allocator_conf(manner.conf)
    with contextlib.suppress(CannotTellError):  # another allocator can be measured, if not simulated
        AllocatorConfig.parse(conf)
    with_workspace(setting.gpu, manner.cublas_workspace_config)  # refuses what it cannot read
    steps = manner.steps if setting.run.training is not None else None
    key = run_key(
        flat.to_dict(),
        weights=weights.kind,
        conf=conf,
        cublas_workspace_config=manner.cublas_workspace_config,
        steps=steps,
        device=bench.device,
    )
    note = "run with the installed libraries, not with " + ", ".join(f"{k} {v}" for k, v in (named or {}).items())
    return Planned(flat=flat, prepared=prepared, weights=weights, conf=conf, key=key, note=note if named else None)


def _refuse(run: Run, bench: Bench) -> None:
    if run.sharding.num_gpus > 1:
        raise CannotTellError(
            f"measure runs one GPU, not {run.sharding.num_gpus}", hint="vramplan estimate divides states over GPUs"
        )
    if run.attn_implementation is AttentionImplementation.FLASH_ATTENTION_2 and find_spec("flash_attn") is None:
        raise NoHardwareError(
            "flash_attention_2 needs the package flash-attn, which is not installed",
            hint="install it, or measure with --attn-implementation sdpa; `vramplan simulate` does without it",
        )
    quantised = any(role.load.quantization.is_bitsandbytes for role in run.roles)
    eight_bit = run.training is not None and ("8bit" in run.training.optim or "paged" in run.training.optim)
    if bench.bitsandbytes is not None and (quantised or eight_bit):
        raise NoHardwareError(f"bitsandbytes {bench.bitsandbytes}", hint=bench.fix)


def _refuse_engine(run: Run, weights: Weights) -> None:
    """A colocated engine that cannot be, or not here."""
    if run.rollout is None or run.rollout.backend is not RolloutBackend.VLLM_COLOCATE:
        return
    quantization = run.trained.load.quantization
    if quantization is Quantization.INT8:  # TRL generation/vllm_generation.py, lines 341-348
        raise CannotTellError(
            "vLLM does not support in-flight 8-bit quantisation: TRL stops with a ValueError", hint=_WITHOUT_ENGINE
        )
    if quantization.is_bitsandbytes and weights.kind == "random":
        raise CannotTellError(
            "vLLM makes its 4-bit weights from a checkpoint only",
            hint=f"--weights random-checkpoint writes one; or {_WITHOUT_ENGINE}",
        )
    if find_spec("vllm") is None:
        raise NoHardwareError(
            "a colocated rollout needs vLLM, which is not installed",
            hint=f"python3 -m pip install 'trl[vllm]'; or {_WITHOUT_ENGINE}",
        )


def with_workspace(gpu: Gpu, config: str | None) -> Gpu:
    """The card with the cuBLAS workspace of `:SIZE:COUNT` pairs in KiB (CublasHandlePool.cpp)."""
    if config is None:
        return gpu
    parts = [part for part in config.split(":") if part]
    if not parts or len(parts) % 2 or not all(part.isdigit() for part in parts):
        raise UsageError(
            f"--cublas-workspace-config must be pairs of size and count, not {config!r}", hint="write :4096:2:16:8"
        )
    num_bytes = sum(int(size) * KiB * int(count) for size, count in zip(parts[::2], parts[1::2], strict=True))
    return replace(gpu, cublas_workspace_bytes=num_bytes) if num_bytes else gpu
