"""From flat settings to a complete Run: every default is the one that the trainer has in these versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import lcm

from vramplan.core.model import ModelShape
from vramplan.core.run import (
    AttentionImplementation,
    LoadSpec,
    Lora,
    Method,
    Quantization,
    Role,
    Rollout,
    RolloutBackend,
    Run,
    Sharding,
    ShardingStrategy,
    Training,
    Tuning,
)
from vramplan.core.stack import Stack
from vramplan.dtypes import DType
from vramplan.errors import CannotTellError, UsageError
from vramplan.formula.adapters import ALL_LINEAR, DEFAULT_TARGETS, adapter_shapes
from vramplan.planner.kbit import as_trainer_prepares, casts_adapters
from vramplan.planner.sizes import resolve_sizes
from vramplan.runfiles.flat import FlatRun

TRAINER_METHODS = frozenset({Method.DPO, Method.GRPO, Method.RLT})
DEFAULT_LORA_R = 16
"""TRL ModelConfig.lora_r."""


@dataclass(slots=True, kw_only=True)
class Resolved:
    """A complete run, and what was taken for granted on the way.

    Args:
        run: the run.
        models: each role's reference, as asked for.
        assumptions: sentences for the report.
    """

    run: Run
    assumptions: list[str] = field(default_factory=list)


def method_of(flat: FlatRun) -> Method:
    """The method asked for: `rlt` where a teacher is named, inference for a single model."""
    if flat.method is not None:
        return Method(flat.method)
    return Method.RLT if flat.teacher is not None else Method.INFERENCE


def role_models(flat: FlatRun, stack: Stack) -> dict[str, str]:
    """Each role's model reference, the trained one first.

    Raises:
        UsageError: no model, or roles that the method does not have.
    """
    method = method_of(flat)
    if flat.model is not None and flat.teacher is not None:
        raise UsageError("a model and a teacher are both given", hint="name the teacher alone, or use MODEL alone")
    main = flat.teacher or flat.model
    if main is None:
        raise UsageError("no model is named", hint="vramplan estimate MODEL, or --teacher ID, or --run PROFILE")
    roles = {"model" if flat.teacher is None else "teacher": main}
    if flat.student is not None:
        if method not in (Method.RLT, Method.SCORE, Method.INFERENCE):
            raise UsageError(f"{method.value} has no student", hint="use --method rlt, or leave --student out")
        roles["student"] = flat.student
    reference = _reference(flat, method, main, stack)
    if reference is not None:
        roles["reference"] = reference
    return roles


def _reference(flat: FlatRun, method: Method, main: str, stack: Stack) -> str | None:
    """The reference model to load or share, None where the trainer has none."""
    if method not in TRAINER_METHODS:
        return None if flat.reference in (None, "none") else flat.reference
    named = None if flat.reference in (None, "none") else flat.reference
    if method is Method.RLT:
        return named or main
    if method is Method.GRPO and _beta(flat, method, stack) == 0 and stack.reference_skipped_at_zero_beta:
        return None
    if flat.reference == "none":
        return None
    return named or main


def _beta(flat: FlatRun, method: Method, stack: Stack) -> float:
    if flat.beta is not None:
        return flat.beta
    return {Method.RLT: 0.04, Method.DPO: 0.1}.get(method, stack.default_beta)


def resolve(flat: FlatRun, models: Mapping[str, ModelShape], stack: Stack) -> Resolved:
    """Complete a run.

    Args:
        flat: what was asked for.
        models: the shape of each role's model.
        stack: library versions.

    Raises:
        UsageError: settings that contradict each other, or that no trainer accepts.
    """
    method = method_of(flat)
    assumptions: list[str] = []
    tuning = _tuning(flat, method)
    roles = _roles(flat, method, models, stack, tuning, assumptions)
    training = _training(flat, method, roles[0], models, stack, tuning, assumptions)
    sharding = Sharding(
        num_gpus=flat.num_gpus or 1,
        strategy=ShardingStrategy(flat.sharding or ("none" if not flat.num_gpus else "ddp")),
    )
    if (flat.num_gpus or 1) == 1:
        sharding = Sharding()
    sizes, accumulation = resolve_sizes(flat, method, stack, sharding.num_gpus, assumptions)
    if training is not None and accumulation is not None:
        training = replace(training, gradient_accumulation_steps=accumulation)
    rollout = _rollout(flat, method, stack, assumptions)
    run = Run(
        method=method,
        roles=roles,
        training=training,
        attn_implementation=AttentionImplementation(flat.attn_implementation or "sdpa"),
        sizes=sizes,
        rollout=rollout,
        beta=_beta(flat, method, stack) if method in TRAINER_METHODS else None,
        sharding=sharding,
        # --num-gpus and --sharding, `none` too, are words of accelerate's and torchrun's launchers.
        launched=flat.num_gpus is not None or flat.sharding is not None,
    )
    if flat.attn_implementation is None:
        assumptions.append("attention is sdpa, transformers' default")
    if run.launched and method is Method.SFT:
        assumptions.append(
            "a named placement is a launched run: a Trainer drops the model's outputs before the backward"
        )
    if method is Method.SFT and "trl" not in stack.named:
        assumptions.append("sft computes the model's own loss; name trl in --stack for SFTTrainer's")
    if method is Method.SFT and not run.launched and not stack.named & {"trl", "accelerate"}:
        assumptions.append(
            "a plain loop holds the model's outputs through the backward (2 B a logit; a Trainer drops them)"
        )
    return Resolved(run=run, assumptions=assumptions)


def _runs_trl(method: Method, stack: Stack) -> bool:
    """Whether TRL's own defaults hold: its methods, and sft where trl is named."""
    return method in TRAINER_METHODS or (method is Method.SFT and "trl" in stack.named)


def _tuning(flat: FlatRun, method: Method) -> Tuning | None:
    if not method.trains:
        return None
    if flat.tuning is not None:
        return Tuning(flat.tuning)
    quantised = (flat.teacher_quantization or flat.quantization or "none") != "none"
    return Tuning.LORA if quantised or flat.lora_r is not None or flat.lora_target_modules else Tuning.FULL


def _roles(
    flat: FlatRun,
    method: Method,
    models: Mapping[str, ModelShape],
    stack: Stack,
    tuning: Tuning | None,
    assumptions: list[str],
) -> tuple[Role, ...]:
    references = role_models(flat, stack)
    offload = flat.offload or ()
    roles = []
    trained = next(iter(references))
    by_itself = tuning is Tuning.LORA and flat.kbit_fp32_upcast is None and _runs_trl(method, stack)
    for name, reference in references.items():
        shares = None
        same = reference == references[trained] and name != trained
        # RLT shares under peft too, where no reference is asked for (trainers/grpo.py 224-226, 852-855).
        shared = method in (Method.GRPO, Method.DPO) or (method is Method.RLT and flat.reference in (None, "none"))
        if name == "reference" and same and shared and tuning is Tuning.LORA:
            shares = trained
            assumptions.append("the reference is the policy with its adapters switched off: no weights of its own")
        load = _load(flat, name, models[name], method, stack, assumptions)
        if trained in (name, shares) and by_itself:
            mixed = _mixed_precision(flat, method, stack)
            load = as_trainer_prepares(load, method, stack, mixed=mixed, sharding=flat.sharding)
            if load.kbit_fp32_upcast:
                assumptions.append(_prepared_sentence(load, stack))
        roles.append(Role(name=name, model=reference, load=load, offloaded=name in offload, shares=shares))
    return tuple(roles)


def _prepared_sentence(load: LoadSpec, stack: Stack) -> str:
    what = "norms" if load.kbit_norms_only else "all that is not quantised"
    back = ", embeddings and head bf16 again" if load.kbit_bf16_embeddings else ""
    return f"trl {stack.versions['trl']} prepares quantised models by itself: {what} fp32{back}"


def _load(
    flat: FlatRun, name: str, model: ModelShape, method: Method, stack: Stack, assumptions: list[str]
) -> LoadSpec:
    particular = {
        "teacher": flat.teacher_quantization,
        "student": flat.student_quantization,
        "reference": flat.reference_quantization,
    }.get(name)
    asked = particular or flat.quantization
    stored = model.stored_quantization
    double_quant, upcast = bool(flat.double_quant), bool(flat.kbit_fp32_upcast)
    if asked is None and stored is not None:
        quantization, double_quant = _stored_quantization(stored.method, stored.four_bit_type, stored.double_quant)
        assumptions.append(f"{name} is quantised on disk ({stored.method}) and loads as it is stored")
    else:
        quantization = Quantization(asked or "none")
    four_bit = quantization in (Quantization.NF4, Quantization.FP4)
    return LoadSpec(
        dtype=_dtype(flat, name, model, method, stack, quantization, assumptions),
        quantization=quantization,
        double_quant=double_quant and four_bit,
        kbit_fp32_upcast=upcast and quantization.is_bitsandbytes,
    )


def _stored_quantization(method: str, four_bit_type: str | None, nested: bool) -> tuple[Quantization, bool]:
    if method == "bitsandbytes":
        return (Quantization(four_bit_type), nested) if four_bit_type else (Quantization.INT8, False)
    if method in ("fp8", "mxfp4"):
        return Quantization.STORED, False
    raise CannotTellError(
        f"checkpoints quantised with {method} are not modelled",
        hint="use the unquantised checkpoint with --4bit or --8bit",
    )


def _dtype(
    flat: FlatRun,
    name: str,
    model: ModelShape,
    method: Method,
    stack: Stack,
    quantization: Quantization,
    assumptions: list[str],
) -> DType:
    if flat.dtype is not None:
        return DType.parse(flat.dtype)
    how = stack.trainer_load_dtype if method is not Method.RLT and _runs_trl(method, stack) else "unset"
    deepspeed = (flat.sharding or "").startswith("zero") and method.trains
    if quantization is not Quantization.NONE:
        # TRL 1.16.0: scripts/{sft,dpo,grpo}.py pass ModelConfig's float32 (its default since 0.27.0) as dtype and, in
        # get_quantization_config, as bnb_4bit_compute_dtype; create_model_from_path fills in float32 where none is
        # given. A checkpoint that is stored quantised brings its own compute dtype.
        if how == "fp32" and quantization.is_bitsandbytes and model.stored_quantization is None and not deepspeed:
            assumptions.append(
                f"{name}: what is not quantised loads in fp32, and 4-bit weights are computed with in fp32, the "
                "default of these versions; --dtype bf16 halves it"
            )
            return DType.FP32
        assumptions.append(f"{name}: what is not quantised loads in bf16")
        return DType.BF16
    if deepspeed:
        assumptions.append(f"{name} is trained in bf16 by DeepSpeed, with fp32 master weights")
        return DType.BF16
    if how == "unset":
        how = stack.default_dtype
    if how == "auto":
        dtype = DType.parse(model.stored_dtype) if model.stored_dtype else DType.BF16
        assumptions.append(f"{name} loads in {dtype.label}, the checkpoint's dtype")
        return dtype
    assumptions.append(f"{name} loads in fp32, the default of these versions; --dtype bf16 halves it")
    return DType.FP32


def _training(
    flat: FlatRun,
    method: Method,
    role: Role,
    models: Mapping[str, ModelShape],
    stack: Stack,
    tuning: Tuning | None,
    assumptions: list[str],
) -> Training | None:
    if tuning is None:
        return None
    if tuning is Tuning.FULL and role.load.quantization is not Quantization.NONE:
        raise UsageError(
            "VP001: full training of a purely quantised model is refused by transformers",
            hint="train LoRA adapters (--tuning lora), or load the trained model unquantised",
        )
    lora = _lora(flat, role, models[role.name], method, stack, assumptions) if tuning is Tuning.LORA else None
    by_trainer = _runs_trl(method, stack)
    mixed = _mixed_precision(flat, method, stack)
    checkpoints = flat.gradient_checkpointing
    if checkpoints is None:
        checkpoints = method is Method.RLT or (by_trainer and stack.default_checkpointing)
        assumptions.append(f"gradient checkpointing is {'on' if checkpoints else 'off'}, this trainer's default")
    # RLT 86a3f5c cfgs/trainer_cfg/base.yaml 6-9 says use_reentrant: false itself.
    reentrant = stack.reentrant_checkpointing and method is not Method.RLT
    reentrant = checkpoints and reentrant and not (by_trainer and stack.trainer_avoids_reentrant)
    if reentrant:
        assumptions.append("gradient checkpointing is the reentrant variant, the default of these versions")
    fused = stack.fused_optimizer_default and stack.fused_optimizer_trusted
    optim = flat.optim or ("adamw_torch_fused" if fused else "adamw_torch")
    if flat.optim is None:
        assumptions.append(f"the optimizer is {optim}, transformers' default")
    return Training(
        tuning=tuning,
        lora=lora,
        mixed_precision=None if mixed == "no" else DType.parse(mixed),
        optim=optim,
        gradient_checkpointing=checkpoints,
        gradient_accumulation_steps=flat.gradient_accumulation_steps or 1,
        reentrant_checkpointing=reentrant,
    )


def _mixed_precision(flat: FlatRun, method: Method, stack: Stack) -> str:
    casts = method is Method.RLT or (_runs_trl(method, stack) and stack.trainer_mixed_bf16)
    return flat.mixed_precision or ("bf16" if casts else "no")


def _lora(flat: FlatRun, role: Role, model: ModelShape, method: Method, stack: Stack, assumptions: list[str]) -> Lora:
    targets = flat.lora_target_modules
    if targets is None:
        targets = DEFAULT_TARGETS.get(model.model_type, (ALL_LINEAR,))
        known = model.model_type in DEFAULT_TARGETS
        why = f"peft's choice for {model.model_type}" if known else f"as peft has no choice for {model.model_type}"
        assumptions.append(f"LoRA on {', '.join(targets)}, {why}")
    r = flat.lora_r
    if r is None:
        r = DEFAULT_LORA_R
        assumptions.append(f"LoRA rank {r}, TRL's default")
    if flat.adapter_dtype is not None:
        dtype = DType.parse(flat.adapter_dtype)
    elif role.load.quantization.is_bitsandbytes and _runs_trl(method, stack) and casts_adapters(method, stack):
        dtype = DType.BF16
    else:
        dtype = DType.FP32 if stack.adapters_cast_to_fp32 or method is Method.SFT else role.load.dtype
    lora = Lora(r=r, target_modules=targets, dtype=dtype)
    if not adapter_shapes(model, lora, stack):
        names = sorted({linear.name.rpartition(".")[2] for linear, _ in model.linears()})
        raise UsageError(
            f"no module of {role.model} is called {' or '.join(targets)}",
            hint=f"its linear layers are {', '.join(names)}",
        )
    return lora


def _rollout(flat: FlatRun, method: Method, stack: Stack, assumptions: list[str]) -> Rollout | None:
    if not method.rolls_out:
        return None
    if flat.rollout is None:
        assumptions.append("completions are generated by transformers on the training weights (--rollout hf)")
    backend = RolloutBackend(flat.rollout or "hf")
    share = flat.vllm_gpu_memory_utilization
    if share is None:
        share = stack.default_vllm_utilization
        if backend is RolloutBackend.VLLM_COLOCATE:
            assumptions.append(f"vLLM takes {share} of the card, TRL's default")
    sleep = bool(flat.vllm_sleep)
    return Rollout(backend=backend, gpu_memory_utilization=share, sleep=sleep)


def rollout_rows(per_device: int, generations: int) -> int:
    """The fewest rows of one rollout that hold whole groups of completions and whole micro-batches."""
    return lcm(per_device, generations)
