"""The oracle's command line: one model, one run, its peaks, and what is alive at them."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from vramplan.allocator.replay import replay
from vramplan.core.run import (
    AttentionImplementation,
    LoadSpec,
    Lora,
    Method,
    Quantization,
    Role,
    Run,
    Sharding,
    Sizes,
    Training,
    Tuning,
)
from vramplan.dtypes import DType
from vramplan.program.device_kind import DeviceKind
from vramplan.program.older_loss import LogitsCode
from vramplan.program.oracle import trace
from vramplan.program.trace import FakeTrace, Label
from vramplan.program.workload import Loop


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line, traces, prints."""
    options = _parser().parse_args(arguments)
    config = json.loads(Path(options.config).read_text(encoding="utf-8"))
    recorded = trace(
        config,
        run_of(options),
        micro_steps=options.micro_steps,
        device=DeviceKind.of(options.compute_capability),
        loop=Loop(
            style=options.loop,
            zero_gradients=options.zero_gradients,
            clip=options.clip,
            padded=options.padded,
            fp32_outputs=options.fp32_outputs,
        ),
        num_layers=options.layers,
        with_labels=options.dump or options.events is not None,
        lora_dropout=options.lora_dropout,
        every_layer=options.every_layer,
        groups_heads=options.groups_heads,
        warms_up=options.warm_up,
        logits_code=LogitsCode(
            upcasts=options.upcast_logits, shifts=options.shift_logits, some_keep_16_bits=options.keep_16_bit_loss
        ),
    )
    _print_peaks(recorded)
    if options.dump:
        _print_live(recorded, options.phase, options.top)
    if options.events is not None:
        _write_events(recorded, Path(options.events))


def run_of(options: argparse.Namespace) -> Run:
    """The run that the flags describe."""
    method = Method(options.method)
    mixed = None if options.mixed_precision == "no" else DType.parse(options.mixed_precision)
    dtype = DType.parse(options.dtype)
    training = None
    if method.trains:
        lora = None
        if options.tuning == "lora":
            adapter_dtype = DType.parse(options.adapter_dtype)
            targets = tuple(options.lora_target_modules.split(","))
            lora = Lora(r=options.lora_r, target_modules=targets, dtype=adapter_dtype)
        training = Training(
            tuning=Tuning(options.tuning),
            lora=lora,
            mixed_precision=mixed,
            optim=options.optim,
            gradient_checkpointing=options.gradient_checkpointing,
            gradient_accumulation_steps=options.gradient_accumulation_steps,
        )
    load = LoadSpec(
        dtype=dtype,
        quantization=Quantization(options.quantization),
        double_quant=options.double_quant,
        kbit_fp32_upcast=options.kbit_fp32_upcast,
    )
    return Run(
        method=method,
        roles=(Role(name="model", model=options.config, load=load),),
        training=training,
        attn_implementation=AttentionImplementation(options.attn),
        sizes=Sizes(
            per_device_batch_size=options.per_device_batch_size,
            batch_size=None,
            num_generations=1,
            rollout_rows=1,
            max_prompt_length=options.max_seq_length,
            max_completion_length=options.max_completion_length,
        ),
        rollout=None,
        beta=None,
        sharding=Sharding(),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vramplan.program.oracle", description=__doc__)
    boolean = argparse.BooleanOptionalAction
    parser.add_argument("config", help="a config.json")
    parser.add_argument("--method", default="sft", choices=["sft", "score", "inference"])
    parser.add_argument("--tuning", default="lora", choices=["lora", "full"])
    parser.add_argument("--lora-r", type=int, default=16)
    parser.add_argument("--lora-target-modules", default="q_proj,v_proj")
    parser.add_argument("--lora-dropout", type=float, default=0.0)
    parser.add_argument("--adapter-dtype", default="fp32")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--mixed-precision", default="no", choices=["no", "bf16", "fp16"])
    parser.add_argument("--quantization", default="none", choices=[kind.value for kind in Quantization])
    parser.add_argument("--double-quant", action=boolean, default=False)
    parser.add_argument("--kbit-fp32-upcast", action=boolean, default=False)
    parser.add_argument("--per-device-batch-size", type=int, default=1)
    parser.add_argument("--max-seq-length", type=int, default=512, help="tokens of a row, or of the prompt")
    parser.add_argument("--max-completion-length", type=int, default=0, help="inference: tokens generated")
    parser.add_argument("--attn", default="sdpa", choices=[kind.value for kind in AttentionImplementation])
    parser.add_argument("--gradient-checkpointing", action=boolean, default=False)
    parser.add_argument("--gradient-accumulation-steps", type=int, default=1)
    parser.add_argument("--optim", default="adamw_torch")
    parser.add_argument("--micro-steps", type=int, default=0, help="0: two optimizer updates")
    parser.add_argument("--loop", default="trainer", choices=["trainer", "step", "plain"])
    parser.add_argument("--zero-gradients", default="none", choices=["none", "zero"])
    parser.add_argument("--clip", action=boolean, default=True)
    parser.add_argument("--padded", action="store_true", help="batches hold padding: attention masks are kept")
    parser.add_argument("--fp32-outputs", action=boolean, default=True, help="accelerate's convert_outputs_to_fp32")
    parser.add_argument("--compute-capability", type=int, default=80, help="75 T4, 80 A100, 86 A6000, 90 H100")
    parser.add_argument("--groups-heads", action=boolean, default=True, help="no: transformers repeats keys and values")
    parser.add_argument("--warm-up", action="store_true", help="from_pretrained warms up the allocator")
    parser.add_argument("--upcast-logits", action="store_true", help="transformers before 4.46")
    parser.add_argument("--shift-logits", action="store_true", help="transformers before 4.49")
    parser.add_argument("--keep-16-bit-loss", action="store_true", help="gpt2, gpt_neox, opt, … before 4.49")
    parser.add_argument("--every-layer", action="store_true", help="extrapolate nothing")
    parser.add_argument("--layers", type=int, default=None)
    parser.add_argument("--dump", action="store_true", help="what is alive at the peak")
    parser.add_argument("--phase", default=None, help="with --dump: the peak of this phase (forward.2, backward, …)")
    parser.add_argument("--top", type=int, default=40, help="with --dump: lines")
    parser.add_argument("--events", default=None, help="write every allocation and free, with its origin, to a file")
    return parser


def _print_peaks(recorded: FakeTrace) -> None:
    resident = {name: _live_bytes(recorded, begin) for name, begin, _end in recorded.spans()}
    for name, peak in recorded.peaks():
        print(f"{name:14} peak {peak:>16,}   at its beginning {resident[name]:>16,}")
    print(f"{'all':14} peak {recorded.peak_allocated_bytes():>16,}   {len(recorded.events):,} events")
    replayed = replay(recorded.events)
    print(f"{'replayed':14} peak {replayed.peak_allocated_bytes:>16,}   reserved {replayed.peak_reserved_bytes:>16,}")


def _live_bytes(recorded: FakeTrace, index: int) -> int:
    return sum(live.total_bytes for live in recorded.live_at(index - 1)) if index else 0


def _print_live(recorded: FakeTrace, phase: str | None, top: int) -> None:
    index = recorded.peak_index(*([phase] if phase else []))
    lives = recorded.live_at(index)
    total = sum(live.total_bytes for live in lives)
    print(f"\nalive at event {index} ({total:,} bytes), grouped by size, operator, dtype, shape, module kind, source:")
    groups: dict[tuple[int, Label], list[int]] = {}
    for live in lives:
        module = ".".join("*" if part.isdigit() else part for part in live.label.module.split("."))
        group = groups.setdefault((live.num_bytes, replace(live.label, module=module)), [0, 0])
        group[0] += live.count
        group[1] += live.total_bytes
    ranked = sorted(groups.items(), key=lambda item: -item[1][1])
    for (size, label), (count, num_bytes) in ranked[:top]:
        what = f"{label.operation} {label.dtype}{list(label.shape)}"
        print(f"{num_bytes:>15,} = {count:>4} × {size:>13,}  {what}  {label.module}  {label.source}")
    rest = sum(num_bytes for _, (_, num_bytes) in ranked[top:])
    if rest:
        print(f"{rest:>15,}   in {len(ranked) - top} smaller groups")


def _write_events(recorded: FakeTrace, path: Path) -> None:
    marks = {index: name for name, index in recorded.marks}
    serial = 0
    with path.open("w", encoding="utf-8") as file:
        for index, event in enumerate(recorded.events):
            if index in marks:
                file.write(f"# {marks[index]}\n")
            key = serial if event > 0 else -event - 1
            serial += event > 0
            label = recorded.labels[key]
            sign = f"+{event}" if event > 0 else "free"
            file.write(
                f"{key}\t{sign}\t{label.operation}\t{label.dtype}{list(label.shape)}\t{label.module}\t{label.source}\n"
            )
    print(f"{len(recorded.events)} events written to {path}", file=sys.stderr)
