"""One run of one model on fake tensors: what the closed formulas are checked against.

`python -m vramplan.program.oracle CONFIG.json --help` prints peaks per phase, and with `--dump` what is alive at them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vramplan.core.run import Run
from vramplan.formula.logprobs import LogProbCode
from vramplan.program.cast import Cast
from vramplan.program.device_kind import DeviceKind
from vramplan.program.extend import NotRepeating
from vramplan.program.fake import fake_device
from vramplan.program.logprobs import Scoring, fused_kernels
from vramplan.program.methods import Program
from vramplan.program.older_loss import LogitsCode
from vramplan.program.recorder import Recorder
from vramplan.program.trace import FakeTrace
from vramplan.program.workload import Loop

_NEWEST = LogitsCode()
_SELECTIVE = Scoring(code=LogProbCode.SELECTIVE, divides=True, in_place=True)


def trace(
    config: Mapping[str, Any],
    run: Run,
    *,
    micro_steps: int = 0,
    device: DeviceKind | None = None,
    loop: Loop | None = None,
    num_layers: int | None = None,
    with_labels: bool = False,
    lora_dropout: float = 0.0,
    every_layer: bool = False,
    scoring: Scoring = _SELECTIVE,
    configs: Mapping[str, Mapping[str, Any]] | None = None,
    groups_heads: bool = True,
    warms_up: bool = False,
    logits_code: LogitsCode = _NEWEST,
) -> FakeTrace:
    """Runs `run` on fake tensors.

    Args:
        config: the trained model's parsed `config.json`, and of every role that `configs` does not name.
        run: what is done.
        micro_steps: forwards to run; 0 for two optimizer updates, the second of which has all states alive.
        device: the GPU to imitate; an A100 without one.
        loop: how the training loop is written; transformers' Trainer without one.
        num_layers: take each model to have only that many layers.
        with_labels: note where each allocation comes from.
        lora_dropout: as peft's.
        every_layer: run all layers, also where a few of them, repeated, do the same.
        scoring: how log-probabilities are taken (dpo, grpo, rlt).
        configs: role to config.
        groups_heads: transformers gives sdpa fewer key heads than query heads, instead of repeating them.
        logits_code: how the trained model gets from its head to its loss.
        warms_up: from_pretrained allocates a model's worth of device memory first.
    """
    device = device or DeviceKind.of(80)
    loop = loop or Loop()
    by_role = {role.name: (configs or {}).get(role.name, config) for role in run.roles}

    def record(*, every_layer: bool) -> tuple[Recorder, list[int]]:
        cast = Cast(
            run,
            by_role,
            num_layers=num_layers,
            every_layer=every_layer,
            lora_dropout=lora_dropout,
            logits_code=logits_code,
        )
        with (
            fused_kernels(scoring),
            fake_device(device, with_labels=with_labels, groups_heads=groups_heads) as recorder,
        ):
            recorder.has_padding = loop.padded
            program = Program(run, cast, recorder, loop, scoring)
            program.load(warms_up=warms_up)
            program.play(micro_steps or _default_steps(run))
            recorder.close()
        return recorder, cast.num_units

    recorder, num_units = record(every_layer=every_layer)
    try:
        return recorder.extended(num_units)
    except NotRepeating:
        return record(every_layer=True)[0].trace()


def _default_steps(run: Run) -> int:
    return 2 * min(run.training.gradient_accumulation_steps, 2) if run.training is not None else 0


if __name__ == "__main__":
    from vramplan.program.oracle_cli import main

    main()
