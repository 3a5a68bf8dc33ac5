"""One run of one model on fake tensors: what the closed formulas are checked against.

`python -m vramplan.program.oracle CONFIG.json --help` prints peaks per phase, and with `--dump` what is alive at them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vramplan.core.run import Method, Run, Tuning
from vramplan.program.device_kind import DeviceKind
from vramplan.program.extend import NotRepeating
from vramplan.program.fake import fake_device
from vramplan.program.layers import watch_layers
from vramplan.program.load import add_adapters, build_config, build_skeleton, materialise
from vramplan.program.pattern import Pattern, find_pattern
from vramplan.program.recorder import Recorder
from vramplan.program.trace import FakeTrace
from vramplan.program.workload import Batch, Loop, generate, score, sft_loss, train


def trace(
    config: Mapping[str, Any], run: Run, *, micro_steps: int = 0, device: DeviceKind | None = None,
    loop: Loop | None = None, num_layers: int | None = None, with_labels: bool = False, lora_dropout: float = 0.0,
    every_layer: bool = False,
) -> FakeTrace:  # fmt: skip
    """Runs the trained model's part of `run` (sft, score or inference) on fake tensors.

    Args:
        config: the model's parsed `config.json`.
        run: what is done.
        micro_steps: forwards to run; 0 for two optimizer updates, the second of which has all states alive.
        device: the GPU to imitate; an A100 without one.
        loop: how the training loop is written; transformers' Trainer without one.
        num_layers: build only that many layers.
        with_labels: note where each allocation comes from.
        lora_dropout: as peft's.
        every_layer: run all layers, also where a few of them, repeated, do the same.
    """
    device = device or DeviceKind.of(80)
    loop = loop or Loop()
    built = build_config(config, num_layers=num_layers)
    training = run.training

    def body(pattern: Pattern | None) -> Recorder:
        layers = num_layers if pattern is None else pattern.num_traced_layers
        short = build_config(config, num_layers=num_layers if pattern is None else layers)
        model = build_skeleton(short, run.trained.load, run.attn_implementation.value)
        if training is not None and training.tuning is Tuning.LORA and training.lora is not None:
            model = add_adapters(model, training.lora, lora_dropout=lora_dropout)
        with fake_device(device, with_labels=with_labels) as recorder:
            recorder.has_padding = loop.padded
            recorder.mark("load")
            prepare(model, run, recorder, pattern)
            sizes = run.sizes
            rows, tokens = sizes.per_device_batch_size, sizes.sequence_length
            if run.method is Method.INFERENCE:
                generate(model, rows, sizes.max_prompt_length, sizes.max_completion_length, recorder)
            elif run.method is Method.SCORE:
                score(model, Batch(rows, tokens), recorder)
            elif training is not None:
                train(
                    model, training, recorder, loss_of=sft_loss(lambda: Batch(rows, tokens)),
                    num_micro_steps=micro_steps or 2 * training.gradient_accumulation_steps, loop=loop,
                    device_type="cpu",
                )  # fmt: skip
            recorder.close()
        return recorder

    pattern = None if every_layer else find_pattern(built)
    recorder = body(pattern)
    if pattern is not None:
        try:
            return recorder.extended(pattern.num_units)
        except NotRepeating:
            recorder = body(None)
    return recorder.trace()


def prepare(model: Any, run: Run, recorder: Recorder, pattern: Pattern | None) -> None:
    """Loads the trained role's weights and makes it ready for `run`."""
    training = run.training
    units = None if pattern is None else pattern.unit_of_layer
    materialise(model, run.trained.load, recorder, units)
    if training is not None:
        if training.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
    else:
        for parameter in model.parameters():
            parameter.requires_grad_(requires_grad=False)
    recorder.module_names.update({id(module): name for name, module in model.named_modules()})
    watch_layers(model, recorder, units)


if __name__ == "__main__":
    from vramplan.program.oracle_cli import main

    main()
