from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from vramplan.catalog.dirs import profile_dirs
from vramplan.catalog.gpus import load_gpu
from vramplan.catalog.stacks import load_stack
from vramplan.core.device import Gpu
from vramplan.core.report import Component
from vramplan.core.run import LoadSpec, Method, Role, Rollout, RolloutBackend, Run, Sharding
from vramplan.core.stack import Stack
from vramplan.dtypes import DType
from vramplan.errors import CannotTellError
from vramplan.program.simulate import simulate

HF = Rollout(backend=RolloutBackend.HF, gpu_memory_utilization=0.3, sleep=False)
VLLM = Rollout(backend=RolloutBackend.VLLM_COLOCATE, gpu_memory_utilization=0.3, sleep=True)
HALF = LoadSpec(dtype=DType.BF16)


@pytest.fixture(scope="module")
def gpu() -> Gpu:
    return load_gpu("a100-80gb", profile_dirs())


@pytest.fixture(scope="module")
def stack() -> Stack:
    return load_stack({"trl": "1.14.0"}, profile_dirs())


@pytest.fixture
def small(tiny: dict[str, Any]) -> dict[str, Any]:
    return {**tiny, "num_hidden_layers": 1}


def _roles(*names: str, offloaded: tuple[str, ...] = ()) -> tuple[Role, ...]:
    return tuple(Role(name=name, model=name, load=HALF, offloaded=name in offloaded) for name in names)


def _configs(run: Run, config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {role.name: config for role in run.roles}


@pytest.mark.parametrize(
    ("options", "phases"),
    [
        ({"method": Method.SFT}, ["load", "train", "optimizer"]),
        ({"method": Method.SCORE}, ["load", "score"]),
        ({"method": Method.INFERENCE, "completion": 8}, ["load", "prefill", "decode"]),
        ({"method": Method.DPO, "roles": _roles("model", "reference")}, ["load", "train", "optimizer"]),
        (
            {"method": Method.GRPO, "completion": 32, "rollout": HF, "roles": _roles("model", "reference")},
            ["load", "rollout", "reference", "train", "optimizer"],
        ),
        (
            {"method": Method.GRPO, "completion": 32, "rollout": VLLM},
            ["load", "rollout", "old_logprobs", "train", "optimizer"],
        ),
        (
            {
                "method": Method.RLT,
                "completion": 32,
                "rollout": VLLM,
                "roles": _roles("teacher", "student", "reference", offloaded=("student", "reference")),
            },
            ["load", "rollout", "score", "teacher_score", "reference", "train", "optimizer"],
        ),
    ],
    ids=["sft", "score", "inference", "dpo", "grpo-hf", "grpo-vllm", "rlt"],
)
def test_every_method_has_the_phases_of_estimate(
    small: dict[str, Any],
    make_run: Callable[..., Run],
    gpu: Gpu,
    stack: Stack,
    options: dict[str, Any],
    phases: list[str],
) -> None:
    run = make_run(**options)
    result = simulate(run, _configs(run, small), gpu=gpu, stack=stack)
    assert [phase.name for phase in result.phases] == phases
    for phase in result.phases:
        assert 0 < phase.allocated_bytes <= phase.reserved_bytes < phase.device_used_bytes
        assert phase.component_bytes(Component.WEIGHTS) > 0
        engine = phase.component_bytes(Component.ROLLOUT_ENGINE)
        assert engine == (
            int(0.3 * gpu.total_bytes) if run.rollout is VLLM and phase.name in ("load", "rollout") else 0
        )
    assert result.out_of_room is None
    assert result.alive_at_peak


def test_an_offloaded_role_weighs_only_while_it_is_used(
    small: dict[str, Any], make_run: Callable[..., Run], gpu: Gpu, stack: Stack
) -> None:
    def weights(offloaded: tuple[str, ...], name: str) -> int:
        roles = _roles("teacher", "student", "reference", offloaded=offloaded)
        run = make_run(Method.RLT, completion=32, rollout=VLLM, roles=roles)
        result = simulate(run, _configs(run, small), gpu=gpu, stack=stack)
        return next(phase for phase in result.phases if phase.name == name).component_bytes(Component.WEIGHTS)

    resting = ("student", "reference")
    one = weights((), "train") // 3
    assert [weights(resting, name) // one for name in ("train", "score", "teacher_score", "reference")] == [1, 2, 1, 2]
    assert weights((), "score") == 3 * one


def test_a_shared_role_costs_nothing(
    small: dict[str, Any], make_run: Callable[..., Run], gpu: Gpu, stack: Stack
) -> None:
    student = Role(name="student", model="x", load=HALF, shares="reference")
    both = (*_roles("teacher", "reference"), student)
    run = make_run(Method.RLT, completion=32, rollout=VLLM, roles=both)
    alone = make_run(Method.RLT, completion=32, rollout=VLLM, roles=_roles("teacher", "reference"))
    configs = _configs(run, small)
    shared = simulate(run, configs, gpu=gpu, stack=stack).phases[0]
    assert shared.allocated_bytes == simulate(alone, configs, gpu=gpu, stack=stack).phases[0].allocated_bytes


def test_what_does_not_fit_is_told_with_what_was_in_the_way(
    small: dict[str, Any], make_run: Callable[..., Run], gpu: Gpu, stack: Stack
) -> None:
    run = make_run(tuning="full", dtype=DType.FP32)
    whole = simulate(run, {"model": small}, gpu=gpu, stack=stack)
    capacity = whole.phases[0].reserved_bytes + (4 << 20)
    failure = simulate(run, {"model": small}, gpu=gpu, stack=stack, capacity_bytes=capacity).out_of_room
    assert failure is not None
    assert failure.phase == "train"
    assert failure.requested_bytes > 0
    assert failure.reserved_bytes <= capacity
    assert sum(live.total_bytes for live in failure.alive) <= failure.allocated_bytes
    assert failure.alive[0].total_bytes > 0


def test_components_are_told_apart(small: dict[str, Any], make_run: Callable[..., Run], gpu: Gpu, stack: Stack) -> None:
    run = make_run(
        tuning="full", dtype=DType.FP32, mixed=DType.BF16, checkpointing=True, attention="eager", accumulation=2
    )
    result = simulate(run, {"model": small}, gpu=gpu, stack=stack)
    train = next(phase for phase in result.phases if phase.name == "train")
    optimizer = next(phase for phase in result.phases if phase.name == "optimizer")
    parameters = train.component_bytes(Component.WEIGHTS)
    for component in (Component.CHECKPOINTS, Component.LOGITS, Component.WORKSPACE):
        assert train.component_bytes(component) > 0
    assert train.component_bytes(Component.OPTIMIZER) == pytest.approx(2 * parameters, rel=0.01)
    assert optimizer.component_bytes(Component.GRADIENTS) == pytest.approx(parameters, rel=0.01)
    assert optimizer.component_bytes(Component.CHECKPOINTS) == 0


def test_trls_fused_head_never_has_full_logits(
    small: dict[str, Any], make_run: Callable[..., Run], gpu: Gpu, stack: Stack
) -> None:
    pytest.importorskip("trl")
    wide = {**small, "vocab_size": 40_000}
    run = make_run(Method.GRPO, rows=8, tokens=16, completion=256, rollout=HF)
    selective = simulate(run, {"model": wide}, gpu=gpu, stack=dataclasses.replace(stack, fused_lm_head=False))
    fused = simulate(run, {"model": wide}, gpu=gpu, stack=dataclasses.replace(stack, fused_lm_head=True))

    def logits(result: Any) -> int:
        return next(phase for phase in result.phases if phase.name == "train").component_bytes(Component.LOGITS)

    assert logits(selective) > 2 * 8 * 256 * 40_000
    assert logits(fused) == 0


def test_several_gpus_are_refused(small: dict[str, Any], make_run: Callable[..., Run], gpu: Gpu, stack: Stack) -> None:
    run = dataclasses.replace(make_run(), sharding=Sharding(num_gpus=2))
    with pytest.raises(CannotTellError, match="one GPU, not 2"):
        simulate(run, {"model": small}, gpu=gpu, stack=stack)
