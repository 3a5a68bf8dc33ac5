"""What fits the card, and when: rules that need the model and the card."""

from __future__ import annotations

from collections.abc import Iterator

from vramplan.core.report import Component, Phase, Verdict
from vramplan.core.run import ShardingStrategy
from vramplan.planner.check.finding import Needs, Problem, Severity
from vramplan.planner.check.rule import Rule
from vramplan.planner.check.subject import Estimated, Subject
from vramplan.planner.finding import gigabytes


def _too_large(subject: Subject) -> Iterator[Problem]:
    estimated, total = subject.estimated, subject.gpu_bytes
    if estimated is None or total is None or estimated.report.budget is None:
        return
    if estimated.report.budget.verdict is not Verdict.DOES_NOT_FIT:
        return
    peak = estimated.report.peak
    at = subject.place_of("per_device_batch_size")
    yield Problem(
        at=at,
        key="" if at else "per_device_train_batch_size",
        message=f"the run takes {gigabytes(peak.device_used_bytes)} in its {peak.phase} phase, most of it "
        f"{peak.component.value.replace('_', ' ')}, and the card has {gigabytes(total)}",
        hint="`vramplan estimate --explain` shows each part; `vramplan recommend` what fits",
    )


def _states(phase: Phase) -> int:
    return sum(entry.num_bytes for entry in phase.entries if entry.label == "states")


def _second_step(subject: Subject) -> Iterator[Problem]:
    estimated, total = subject.estimated, subject.gpu_bytes
    if estimated is None or total is None:
        return
    first = max(
        (phase.device_used_bytes - _states(phase) for phase in estimated.result.phases if phase.name != "optimizer"),
        default=0,
    )
    later = max(
        (phase for phase in estimated.result.phases if phase.name != "optimizer"),
        key=lambda phase: phase.device_used_bytes,
    )
    if first <= total < later.device_used_bytes:
        at = subject.place_of("optim")
        yield Problem(
            at=at,
            key="" if at else "optim",
            message=f"the first step fits ({gigabytes(first)}) and the second does not "
            f"({gigabytes(later.device_used_bytes)}): {gigabytes(_states(later))} of optimizer states stay after it",
            hint="use an 8-bit optimizer or LoRA; a first step that fits proves nothing",
        )


def _resident(subject: Subject) -> Iterator[Problem]:
    estimated, total = subject.estimated, subject.gpu_bytes
    at = subject.file.get("offload_untrained_models")
    if estimated is None or total is None or at is None or at.value is not False:
        return
    others = [role for role in estimated.setting.run.roles[1:] if not role.shares]
    if not others:
        return
    phase = max(estimated.result.phases, key=lambda one: one.device_used_bytes)
    theirs = sum(_weights(estimated, role.name) for role in others)
    if phase.device_used_bytes > total and theirs:
        yield Problem(
            at=at,
            message=f"{' and '.join(role.name for role in others)} keep {gigabytes(theirs)} on a card of "
            f"{gigabytes(total)}, where the run takes {gigabytes(phase.device_used_bytes)}",
            hint="use true: they rest in host memory",
            fixed="true",
        )


def _weights(estimated: Estimated, role: str) -> int:
    share = 1
    sharding = estimated.setting.run.sharding
    if sharding.strategy in (ShardingStrategy.ZERO3, ShardingStrategy.FSDP_FULL_SHARD):
        share = sharding.num_gpus
    return sum(one.num_bytes for one in estimated.setting.stored[role]) // share


def _gathered(subject: Subject) -> Iterator[Problem]:
    estimated, total = subject.estimated, subject.gpu_bytes
    at = subject.is_true("sync_ref_model")
    if estimated is None or total is None or at is None:
        return
    run = estimated.setting.run
    if run.sharding.strategy is not ShardingStrategy.ZERO3 or run.role("reference") is None:
        return
    whole = sum(
        sum(one.num_bytes for one in estimated.setting.stored[name]) for name in (run.trained.name, "reference")
    )
    optimizer = next((one for one in estimated.result.phases if one.name == "optimizer"), estimated.result.phases[-1])
    resting = optimizer.device_used_bytes - optimizer.component_bytes(Component.LOGITS)
    if resting + whole > total:
        yield Problem(
            at=at,
            message=f"every ref_model_sync_steps, each process gathers policy and reference whole, {gigabytes(whole)} "
            f"over the {gigabytes(resting)} that stay: more than the card's {gigabytes(total)}",
            hint="use false",
            fixed="false",
        )


CARD_RULES = (
    Rule(
        id="VP012",
        title="peak only at step 2",
        why="Optimizer states are made in the first optimizer step. The first forward and backward run without them, "
        "so a run that starts well stops in its second step.",
        source="torch optim/optimizer.py: states are made lazily; TRL issues 2972 and 2927",
        wrong="optim: adamw_torch          # full training, states fill what the first step left free",
        right="optim: adamw_8bit",
        needs=Needs.CARD,
        check=_second_step,
    ),
    Rule(
        id="VP051",
        title="reference sync gathers two whole models",
        why="Under ZeRO-3 SyncRefModelCallback gathers all parameters of both models on every process: shards do not "
        "help in that moment.",
        source="trl 0.14.0 callbacks.py 111-120; the same in 1.16.0",
        wrong="sync_ref_model: true         # ZeRO-3, two models larger than what is free",
        right="sync_ref_model: false",
        needs=Needs.CARD,
        check=_gathered,
    ),
    Rule(
        id="VP057",
        title="models that could rest in host memory do not fit",
        why="Reference and student only score. With offload_untrained_models they rest in host memory.",
        source="RLT trainers/grpo.py 579-581, teacher_trainers.py 52-54, utils_trl_15.py 206-213",
        wrong="offload_untrained_models: false",
        right="offload_untrained_models: true",
        severity=Severity.WARNING,
        needs=Needs.CARD,
        check=_resident,
    ),
    Rule(
        id="VP067",
        title="the run does not fit the card",
        why="Even the lower end of the estimate's band is more than the card has.",
        source="vramplan estimate, whose formulas name their own sources (--explain)",
        wrong="per_device_train_batch_size: 64    # on a card for 8",
        right="per_device_train_batch_size: 8",
        needs=Needs.CARD,
        check=_too_large,
    ),
)
