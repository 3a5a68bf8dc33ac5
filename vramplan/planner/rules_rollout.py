"""Rules on how completions are made: groups, lengths, and an engine on the same card."""

from __future__ import annotations

from collections.abc import Iterator

from vramplan.core.report import Component, Finding
from vramplan.core.run import Method, Quantization, RolloutBackend
from vramplan.formula.estimate import Estimate
from vramplan.formula.setting import Setting
from vramplan.planner.finding import Rule, gigabytes
from vramplan.planner.resolve import rollout_rows
from vramplan.runfiles.flat import FlatRun


def rollout_divisibility(_flat: FlatRun, setting: Setting, _result: Estimate) -> Iterator[Finding]:
    """VP004, VP005."""
    sizes, run = setting.run.sizes, setting.run
    if not run.method.rolls_out:
        return
    if sizes.num_generations < 2:
        yield Finding(
            rule="VP004",
            message=f"{sizes.num_generations} completion a prompt has no group to compare with: the trainer refuses it",
            hint="use at least --generations 2",
            source="TRL grpo_config.py: num_generations must be at least 2; RLT trainers/grpo.py 375-382",
        )
    total = sizes.batch_size
    if total is not None and total % sizes.num_generations:
        yield Finding(
            rule="VP005",
            message=f"{total} completions an update are no multiple of {sizes.num_generations} a prompt",
            hint=f"use a --batch-size that {rollout_rows(sizes.per_device_batch_size, sizes.num_generations)} divides",
            source="TRL grpo_trainer.py: generation_batch_size must be divisible by num_generations",
        )


def engine_length(flat: FlatRun, setting: Setting, _result: Estimate) -> Iterator[Finding]:
    """VP006."""
    needed = setting.run.sizes.sequence_length
    if flat.vllm_max_model_length is not None and flat.vllm_max_model_length < needed:
        yield Finding(
            rule="VP006",
            message=f"vllm_max_model_length {flat.vllm_max_model_length} is less than prompt and completion, {needed}",
            hint=f"it counts both: use {needed}",
            source="vLLM max_model_len is prompt plus output; research/training-memory.md §1.1",
        )


def engine_with_eight_bit(_flat: FlatRun, setting: Setting, _result: Estimate) -> Iterator[Finding]:
    """VP007."""
    run = setting.run
    colocated = run.rollout is not None and run.rollout.backend is RolloutBackend.VLLM_COLOCATE
    if colocated and run.trained.load.quantization is Quantization.INT8:
        yield Finding(
            rule="VP007",
            message="vLLM does not support in-flight 8-bit quantisation: TRL stops with a ValueError",
            hint="use 4-bit, or --rollout hf, or --rollout vllm-server",
            source="TRL generation/vllm_generation.py, lines 341-348",
        )


def generation_rows(_flat: FlatRun, setting: Setting, _result: Estimate) -> Iterator[Finding]:
    """VP018."""
    run, training = setting.run, setting.run.training
    if run.method is not Method.GRPO or run.rollout is None or training is None:
        return
    steps = training.gradient_accumulation_steps
    if run.rollout.backend is RolloutBackend.HF and setting.stack.generates_whole_batch and steps > 1:
        yield Finding(
            rule="VP018",
            message=f"accumulation multiplies the rollout: {run.sizes.rollout_rows} rows are generated at once",
            hint="accumulation does not lower this peak; vLLM does, or fewer steps",
            source="TRL pull request 3283 (from 0.17): one generation for the whole accumulation cycle; issue 4511",
        )


def engine_of_this_version(_flat: FlatRun, setting: Setting, _result: Estimate) -> Iterator[Finding]:
    """VP028."""
    run, stack = setting.run, setting.stack
    if run.rollout is None or run.rollout.backend is not RolloutBackend.VLLM_COLOCATE or run.method is not Method.GRPO:
        return
    missing = None
    if not stack.vllm_colocate_available:
        missing = "has no colocated vLLM", "trl has it from 0.18.0 on"
    elif run.rollout.sleep and not stack.vllm_sleep_available:
        missing = "cannot put vLLM to sleep: it keeps its share while training", "trl can from 0.23.0 on"
    if missing is not None:
        yield Finding(
            rule="VP028",
            message=f"trl {stack.versions['trl']} {missing[0]}",
            hint=missing[1],
            source="TRL grpo_config.py vllm_mode, vllm_enable_sleep_mode; pull requests 3394 and 3968",
        )


def engine_share(_flat: FlatRun, setting: Setting, result: Estimate) -> Iterator[Finding]:
    """VP029, VP030."""
    run = setting.run
    if run.rollout is None or run.rollout.backend is not RolloutBackend.VLLM_COLOCATE:
        return
    share = run.rollout.engine_bytes(setting.gpu.total_bytes)
    weights = sum(one.num_bytes for one in setting.stored[run.trained.name])
    if share < weights:
        yield Finding(
            rule="VP029",
            message=f"vLLM's share of {gigabytes(share)} is less than its own weights, {gigabytes(weights)}",
            hint="raise --vllm-gpu-memory-utilization: it has to hold the KV cache too",
            source='vLLM: "No available memory for the cache blocks"',
        )
    resident = result.phases[0].component_bytes(Component.WEIGHTS)
    if share + resident > setting.gpu.total_bytes:
        yield Finding(
            rule="VP030",
            message=f"vLLM's share and the models beside it make {gigabytes(share + resident)}, more than the card",
            hint="lower --vllm-gpu-memory-utilization, or quantise or offload a model",
            source="vLLM takes its share of the whole card whatever else is on it",
        )


ROLLOUT_RULES: tuple[Rule, ...] = (
    rollout_divisibility,
    engine_length,
    engine_with_eight_bit,
    generation_rows,
    engine_of_this_version,
    engine_share,
)
