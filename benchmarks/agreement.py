"""How far the formulas are from the real code: peaks of small models, by architecture and mode, beside the oracle's.

Run it as `python benchmarks/agreement.py [ARCHITECTURE …]` in an environment with torch, transformers, peft and
bitsandbytes. The oracle (vramplan.program) runs transformers' own modules on fake tensors and sums what they allocate;
the formulas compute the same peaks from the config. Weights and gradients are part of both; optimizer states (SGD has
none) and cuBLAS workspaces (one block each) are left out, so that they do not hide what the activations are off by.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from agreement_models import SMALL_MODELS

from vramplan.archs import read_model
from vramplan.catalog.dirs import profile_dirs
from vramplan.catalog.gpus import load_gpu
from vramplan.catalog.stacks import load_stack
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
from vramplan.formula.estimate import estimate
from vramplan.formula.setting import Setting
from vramplan.formula.static import Static, allocated_total

ROWS, TOKENS = 2, 256
PROMPT_TOKENS, COMPLETION_TOKENS = 256, 3
ROLLOUT_TOKENS = 64, 192
WORKSPACE_BYTES = 512
TRAIN_PHASES = ("forward.2", "backward.2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run of one small model.

    Args:
        model: a key of SMALL_MODELS.
        method: sft, score or inference.
        tuning: of an sft run.
        precision: `bf16`, `fp32`, `amp` (fp32 weights, bf16 autocast), `bf16-amp`, `int8`, `nf4`, `nf4-dq`;
            with `-kbit` prepared as peft does, with `-norms` as TRL 0.25 does, with `-back` embeddings bf16 after it.
        attention: the implementation.
        checkpoints: gradient checkpointing.
        reentrant: by the reentrant variant.
        plain: a plain loop, which holds the model's outputs, and not a trainer.
        trl: the version of TRL whose way to take log-probabilities a grpo run has.
    """

    model: str
    method: Method = Method.SFT
    tuning: Tuning = Tuning.LORA
    precision: str = "bf16"
    attention: str = "sdpa"
    checkpoints: bool = False
    reentrant: bool = False
    plain: bool = False
    trl: str = ""

    @property
    def label(self) -> str:
        """The mode in a few words, without the model."""
        parts = [self.method.value, self.precision, self.attention]
        if self.method.trains:
            parts.insert(1, self.tuning.value)
            parts += ["checkpointed"] if self.checkpoints else []
            parts += ["reentrant"] if self.reentrant else []
            parts += ["plain loop"] if self.plain else []
            parts += [f"trl {self.trl}"] if self.trl else []
        return " ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """One phase's peak by both."""

    phase: str
    real_bytes: int
    formula_bytes: int

    @property
    def error_ratio(self) -> float:
        """By how much the formula is above (positive) or below the real code."""
        return self.formula_bytes / self.real_bytes - 1


ATTENTION_ONLY = ("q_proj", "k_proj", "v_proj", "o_proj", "q_a_proj", "q_b_proj", "kv_b_proj")
MIXTURES = frozenset({"mixtral", "qwen3_moe", "deepseek_v2", "deepseek_v3", "gpt_oss"})


def targets_of(model: str) -> tuple[str, ...]:
    """What LoRA is aimed at: every linear layer, or attention where experts are (peft adapts their parameters too)."""
    return ATTENTION_ONLY if model in MIXTURES else ("all-linear",)


def run_of(case: Case) -> Run:
    """The run that a case stands for."""
    mixed = DType.BF16 if "amp" in case.precision else None
    load = LoadSpec(dtype=DType.FP32 if case.precision in ("fp32", "amp") else DType.BF16)
    quantization = {"int8": Quantization.INT8, "nf4": Quantization.NF4}.get(case.precision.split("-")[0])
    if quantization is not None:
        norms_only = "norms" in case.precision
        load = replace(
            load,
            quantization=quantization,
            double_quant="dq" in case.precision,
            kbit_fp32_upcast="kbit" in case.precision or norms_only,
            kbit_norms_only=norms_only,
            kbit_bf16_embeddings="back" in case.precision,
        )
    training = None
    if case.method.trains:
        lora = (
            Lora(r=16, target_modules=targets_of(case.model), dtype=DType.FP32) if case.tuning is Tuning.LORA else None
        )
        training = Training(
            tuning=case.tuning,
            lora=lora if case.tuning is Tuning.LORA else None,
            mixed_precision=mixed,
            optim="sgd",
            gradient_checkpointing=case.checkpoints,
            gradient_accumulation_steps=2,
            reentrant_checkpointing=case.reentrant,
        )
    generates, rolls_out = case.method is Method.INFERENCE, case.method.rolls_out
    prompt, completion = TOKENS, 0
    if generates:
        prompt, completion = PROMPT_TOKENS, COMPLETION_TOKENS
    elif rolls_out:
        prompt, completion = ROLLOUT_TOKENS
    return Run(
        method=case.method,
        roles=(Role(name="model", model=case.model, load=load),),
        training=training,
        attn_implementation=AttentionImplementation(case.attention),
        sizes=Sizes(
            per_device_batch_size=ROWS,
            batch_size=None,
            num_generations=1,
            rollout_rows=ROWS,
            max_prompt_length=prompt,
            max_completion_length=completion,
        ),
        rollout=None,
        beta=None,
        sharding=Sharding(),
    )


def setting_of(case: Case, *, config: dict[str, Any] | None = None) -> Setting:
    """What the formulas start from; `config` stands in for the case's own."""
    dirs = profile_dirs()
    stack = load_stack({"trl": case.trl} if case.trl else {}, dirs)
    if not case.plain and not case.trl:
        stack = replace(stack, named=frozenset({"accelerate"}))
    return Setting(
        run=run_of(case),
        models={"model": read_model(config or SMALL_MODELS[case.model])},
        stack=stack,
        gpu=replace(load_gpu("a100-80gb", dirs), cublas_workspace_bytes=WORKSPACE_BYTES),
    )


def formula_peaks(case: Case) -> dict[str, int]:
    """Allocated bytes of each phase by the formulas, without what blocks keep beside weights: tensors are compared."""
    setting = setting_of(case)
    static = Static(setting)
    kept = sum(static.weights_bytes(role) - allocated_total(static.weight_sizes(role)) for role in setting.run.roles)
    return {phase.name: phase.allocated_bytes - kept for phase in estimate(setting).phases}


def real_trace(case: Case, *, with_labels: bool = False) -> Any:
    """The oracle's record of a case (a vramplan.program.trace.FakeTrace)."""
    from vramplan.program.device_kind import DeviceKind
    from vramplan.program.logprobs import scoring_of
    from vramplan.program.oracle import trace
    from vramplan.program.workload import Loop

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return trace(
            SMALL_MODELS[case.model],
            run_of(case),
            micro_steps=2,
            device=replace(DeviceKind.of(80), cublas_workspace_bytes=WORKSPACE_BYTES),
            loop=Loop(style="plain" if case.plain else "trainer", fp32_outputs=not case.plain),
            every_layer=True,
            with_labels=with_labels,
            scoring=scoring_of(setting_of(case).stack, case.method),
        )


def compare(case: Case) -> list[Agreement]:
    """Each phase of a case by both: the second micro-step of a training run, when gradients are alive."""
    real = real_trace(case)
    if case.method is Method.INFERENCE:
        real = _last_step(real)
    phases = {"train": TRAIN_PHASES} if case.method.trains else {name: (name,) for name in _phases(case)}
    formula = formula_peaks(case)
    return [
        Agreement(phase=name, real_bytes=real.peak_allocated_bytes(*names), formula_bytes=formula[name])
        for name, names in phases.items()
    ]


def _last_step(real: Any) -> Any:
    """The record with `decode` beginning at the last step's ids: before them the oracle lengthens the cache at once."""
    name, begin, end = next(span for span in real.spans() if span[0] == "decode")
    ids = ROWS * 8
    start = next(index for index in range(begin, end) if real.events[index : index + 3] == [ids] * 3)
    return replace(real, marks=[*real.marks[:-1], ("lengthened", begin), (name, start)])


def _phases(case: Case) -> tuple[str, ...]:
    return ("prefill", "decode") if case.method is Method.INFERENCE else ("score",)


HAS_NO_SDPA = frozenset({"gemma2", "gpt_oss"})
"""transformers 5.23 refuses sdpa for these."""


def cases(model: str) -> Iterator[Case]:
    """Every mode of one model."""
    for attention in ("eager",) if model in HAS_NO_SDPA else ("eager", "sdpa"):
        for precision in ("bf16", "amp"):
            for tuning in (Tuning.LORA, Tuning.FULL):
                for checkpoints in (False, True):
                    yield Case(
                        model=model, tuning=tuning, precision=precision, attention=attention, checkpoints=checkpoints
                    )
        yield Case(model=model, method=Method.SCORE, attention=attention)
        yield Case(model=model, method=Method.INFERENCE, attention=attention)
    yield from log_probability_cases(model)


TRL_VERSIONS = ("0.14.0", "0.16.0", "1.10.0")
"""A log-softmax of each row; gathered logits less log-sum-exp, a copy divided by the temperature; the same in place."""


def log_probability_cases(model: str) -> Iterator[Case]:
    """A GRPO step by each way to take log-probabilities of fp32 and of 16-bit logits."""
    attention = "eager" if model in HAS_NO_SDPA else "sdpa"
    for trl in TRL_VERSIONS:
        for precision in ("bf16", "fp32", "amp"):
            yield Case(
                model=model,
                method=Method.GRPO,
                precision=precision,
                attention=attention,
                checkpoints=True,
                trl=trl,
            )


QUANTISED = ("int8", "nf4", "nf4-dq", "nf4-kbit", "int8-kbit", "nf4-amp", "nf4-kbit-amp")
PREPARED_BY_TRL = ("nf4-kbit-back-amp", "nf4-norms-back-amp", "int8-kbit-amp", "int8-norms-amp")
"""bf16 runs of TRL 0.24 and 0.25."""


def quantised_cases(model: str) -> Iterator[Case]:
    """The modes of a model that bitsandbytes has converted."""
    attention = "eager" if model in HAS_NO_SDPA else "sdpa"
    for precision in (*QUANTISED, *PREPARED_BY_TRL):
        for checkpoints in (False, True):
            yield Case(model=model, precision=precision, attention=attention, checkpoints=checkpoints)
    yield Case(model=model, method=Method.SCORE, precision="int8", attention=attention)
    yield Case(model=model, method=Method.SCORE, precision="nf4", attention=attention)


def main() -> int:
    """Print the table; 1 where a phase is off by more than the tolerance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="ARCHITECTURE", help=", ".join(SMALL_MODELS))
    parser.add_argument("--above", type=float, default=0.0, help="print only what is off by at least that many %%")
    parser.add_argument("--tolerance", type=float, default=1.0, help="in %%")
    parser.add_argument("--quantised", action="store_true", help="bitsandbytes' modes")
    options = parser.parse_args()
    worst = 0.0
    for model in options.models or SMALL_MODELS:
        for case in (quantised_cases if options.quantised else cases)(model):
            for one in compare(case):
                percent = 100 * one.error_ratio
                worst = max(worst, abs(percent))
                if abs(percent) >= options.above:
                    print(
                        f"{model:<24}{case.label + ' ' + one.phase:<52}"
                        f"{one.real_bytes:>12,}{one.formula_bytes:>12,}{percent:>+8.2f} %",
                        flush=True,
                    )
    print(f"worst {worst:.2f} %")
    return int(worst > options.tolerance)


if __name__ == "__main__":
    sys.exit(main())
