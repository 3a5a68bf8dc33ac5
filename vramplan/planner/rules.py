"""What a run's author should know: rules with an id, a sentence, a hint and a source.

VP001, VP002 and VP003 are refusals: `vramplan.planner.resolve` and `vramplan.planner.sizes` raise them.
"""

from __future__ import annotations

from collections.abc import Iterator

from vramplan.core.model import ModuleKind
from vramplan.core.report import Component, Finding
from vramplan.core.run import Method, Quantization, Tuning
from vramplan.dtypes import DType
from vramplan.formula.estimate import Estimate
from vramplan.formula.logprobs import LogProbCode, code_of
from vramplan.formula.optimizer import paged_bytes
from vramplan.formula.setting import Setting
from vramplan.planner.finding import Rule, gigabytes
from vramplan.planner.idle import idle_settings
from vramplan.planner.rules_precision import PRECISION_RULES
from vramplan.planner.rules_rollout import ROLLOUT_RULES
from vramplan.runfiles.flat import FlatRun


def find_findings(flat: FlatRun, setting: Setting, result: Estimate) -> tuple[Finding, ...]:
    """Every rule that has something to say about this run."""
    return tuple(finding for rule in RULES for finding in rule(flat, setting, result))


def fp32_weights(flat: FlatRun, setting: Setting, _result: Estimate) -> Iterator[Finding]:
    """VP010."""
    training, role = setting.run.training, setting.run.trained
    if training is None or setting.autocast(role) is None or role.load.dtype is not DType.FP32:
        return
    parameters = setting.models[role.name].num_parameters
    meant = " (the default of these versions)" if flat.dtype is None else ""
    yield Finding(
        rule="VP010",
        message=f"fp32 weights under autocast{meant}: "
        f"{gigabytes(4 * parameters)} of weights, and a 16-bit copy of {gigabytes(2 * parameters)} in every forward",
        hint="load with --dtype bf16 if 16-bit weights were meant",
        source="torch autocast_mode.cpp: fp32 leaves that need gradients are cast once and kept",
    )


def reference_at_zero_beta(_flat: FlatRun, setting: Setting, _result: Estimate) -> Iterator[Finding]:
    """VP011."""
    if setting.run.beta == 0 and setting.run.method is not Method.DPO and setting.run.role("reference") is not None:
        yield Finding(
            rule="VP011",
            message="beta is 0, and these versions load and run the reference all the same",
            hint="RLT always does; TRL skips it from 0.16.0 on",
            source="RLT trainers/grpo.py 218-226, 845-855; TRL pull request 2806",
        )


def second_step(_flat: FlatRun, _setting: Setting, result: Estimate) -> Iterator[Finding]:
    """VP012."""
    states = max(
        (sum(entry.num_bytes for entry in phase.entries if entry.label == "states") for phase in result.phases),
        default=0,
    )
    peak = result.peak.device_used_bytes
    if states * 20 > peak and result.peak.name != "optimizer":
        yield Finding(
            rule="VP012",
            message=f"{gigabytes(states)} of optimizer states appear in the first step: the peak comes in step 2",
            hint="a first step that fits proves nothing; an 8-bit optimizer or LoRA makes them small",
            source="torch optim/optimizer.py: states are made lazily; TRL issue 2972",
        )


def unconverted_experts(_flat: FlatRun, setting: Setting, _result: Estimate) -> Iterator[Finding]:
    """VP013, VP014."""
    for role in setting.run.roles:
        if not role.load.quantization.is_bitsandbytes or role.shares:
            continue
        stored = setting.stored[role.name]
        experts = sum(
            one.weight.total_elements for one in stored if one.weight.kind is ModuleKind.EXPERTS and not one.state_bytes
        )
        subclasses = sum(
            one.weight.total_elements
            for one in stored
            if one.weight.kind is ModuleKind.LINEAR_SUBCLASS and one.weight.name == "weight" and not one.state_bytes
        )
        if experts:
            yield Finding(
                rule="VP013",
                message=f"{role.name}: {experts:,} parameters of fused experts stay in {role.load.dtype.label}: "
                "bitsandbytes converts nn.Linear only",
                hint="transformers 4.57 keeps experts apart and converts them; --stack transformers=4.57.6 shows it",
                source="transformers 5 keeps experts in 3-D parameters (models/*/modeling_*.py); "
                "integrations/bitsandbytes.py replaces linear layers",
            )
        if subclasses:
            yield Finding(
                rule="VP014",
                message=f"{role.name}: {subclasses:,} parameters of a subclass of nn.Linear stay in "
                f"{role.load.dtype.label}",
                hint="transformers up to 5.4.0 converts them",
                source="transformers 5.5.0 integrations/bitsandbytes.py: type(module) is nn.Linear",
            )


def kept_inputs(_flat: FlatRun, setting: Setting, result: Estimate) -> Iterator[Finding]:
    """VP015."""
    training, role = setting.run.training, setting.run.trained
    if training is None or role.load.quantization is not Quantization.INT8 or not training.gradient_checkpointing:
        return
    if training.reentrant_checkpointing:
        return  # its forward runs without gradients, and MatMul8bitLt then keeps nothing
    kept = result.phases[-2].component_bytes(Component.ACTIVATIONS)
    yield Finding(
        rule="VP015",
        message=f"LLM.int8 keeps the input of every linear layer through checkpointing: most of {gigabytes(kept)} "
        "of activations",
        hint="4-bit does not keep them; reentrant checkpointing (use_reentrant=True) drops them too",
        source="bitsandbytes 0.50.2 autograd/_functions.py MatMul8bitLt: ctx.tensors is no saved tensor",
    )


def kbit_upcast(flat: FlatRun, setting: Setting, _result: Estimate) -> Iterator[Finding]:
    """VP016."""
    for role in setting.run.roles:
        if not role.load.kbit_fp32_upcast or not role.load.dtype.is_half or role.shares:
            continue
        stored = setting.stored[role.name]
        fp32 = sum(one.weight.total_elements for one in stored if not one.state_bytes and one.dtype is DType.FP32)
        if flat.kbit_fp32_upcast is None:
            who = f"trl {setting.stack.versions['trl']} calls prepare_model_for_kbit_training by itself, which"
            hint = "SFTTrainer and GRPOTrainer from trl 0.26.0 on do not, nor does DPOTrainer from 0.29.0 on"
            source = "TRL trainer/*_trainer.py and models/utils.py prepare_peft_model; profiles/stacks/trl.toml"
        else:
            who = "prepare_model_for_kbit_training"
            hint = "TRL does not call it from 0.29.0 on; skip it where the embeddings are large"
            source = "peft utils/other.py prepare_model_for_kbit_training"
        embeddings = {one.dtype for one in stored if one.weight.kind is ModuleKind.EMBEDDING}
        stream = "the residual stream with them" if DType.FP32 in embeddings else "with norms what they put out"
        yield Finding(
            rule="VP016",
            message=f"{role.name}: {who} makes {fp32:,} parameters fp32, {gigabytes(2 * fp32)} more, and {stream}",
            hint=hint,
            source=source,
        )


def paged_states(_flat: FlatRun, setting: Setting, _result: Estimate) -> Iterator[Finding]:
    """VP017."""
    if setting.optimizer is None:
        return
    outside = paged_bytes(setting.optimizer, setting.trainables)
    if outside:
        yield Finding(
            rule="VP017",
            message=f"{gigabytes(outside)} of paged states are managed memory: not in these totals, and can spill",
            hint="nvidia-smi shows what of it is on the card at the moment",
            source="bitsandbytes optim/optimizer.py get_state_buffer",
        )


def full_logits(_flat: FlatRun, setting: Setting, _result: Estimate) -> Iterator[Finding]:
    """VP019."""
    if setting.run.method not in (Method.GRPO, Method.DPO) or code_of(setting.stack, rlt=False) is LogProbCode.FUSED:
        return
    sizes = setting.run.sizes
    rows = sizes.per_device_batch_size * (2 if setting.run.method is Method.DPO else 1)
    tokens = rows * (sizes.max_completion_length or sizes.max_prompt_length)
    logits = 4 * tokens * setting.models[setting.run.trained.name].vocab_size
    yield Finding(
        rule="VP019",
        message=f"trl {setting.stack.versions['trl']} makes full logits: {gigabytes(logits)} in fp32, several times",
        hint="trl 1.15.0 and later computes log-probabilities in tiles and never makes them",
        source="TRL pull requests 7077 and 7243; kernels/chunked_logprob.py",
    )


def long_context(_flat: FlatRun, setting: Setting, _result: Estimate) -> Iterator[Finding]:
    """VP020."""
    length = setting.run.sizes.sequence_length
    for role in setting.run.roles:
        limit = setting.models[role.name].max_position_embeddings
        if length > limit:
            yield Finding(
                rule="VP020",
                message=f"{role.name}: rows of {length} tokens are longer than the model's {limit}",
                hint="shorten prompt and completion, or use a model with a longer context",
                source="max_position_embeddings of its config.json",
            )


def named_reference(flat: FlatRun, setting: Setting, _result: Estimate) -> Iterator[Finding]:
    """VP023, VP033."""
    if setting.run.method is Method.RLT and flat.reference == "none":
        yield Finding(
            rule="VP033",
            message="RLT loads and runs a reference whatever is asked",
            hint="under LoRA it is the teacher without its adapters, and costs no weights",
            source="RLT trainers/grpo.py 218-226, 845-855",
        )
        return
    training, reference = setting.run.training, setting.run.role("reference")
    if training is None or training.tuning is not Tuning.LORA or reference is None or reference.shares:
        return
    if reference.model == setting.run.trained.model and setting.run.method is Method.RLT:
        own = sum(one.num_bytes for one in setting.stored["reference"])
        yield Finding(
            rule="VP023",
            message=f"the reference is the teacher without its adapters: {gigabytes(own)} of weights are loaded twice",
            hint="leave --reference out: a peft policy switches its adapters off instead",
            source="RLT trainers/grpo.py 224-226, 852-855; TRL grpo_trainer.py ref_adapter",
        )


def several_gpus(_flat: FlatRun, setting: Setting, _result: Estimate) -> Iterator[Finding]:
    """VP024."""
    if setting.run.sharding.num_gpus > 1:
        yield Finding(
            rule="VP024",
            message="sharded runs are modelled by what each strategy divides; communication buffers are left out",
            hint="take the figures of one GPU for exact ones, and leave 1 to 2 GB for NCCL",
            source="research/estimators.md §5.2: NCCL takes 1 to 2 GB",
        )


def left_out_parts(_flat: FlatRun, setting: Setting, _result: Estimate) -> Iterator[Finding]:
    """VP025."""
    for role in setting.run.roles:
        parts = setting.models[role.name].left_out
        if parts:
            yield Finding(
                rule="VP025",
                message=f"{role.name}: {', '.join(parts)} of the config is not counted, only the language model is",
                hint="add the weights of the other towers by hand",
                source="its config.json",
            )


def unread_versions(_flat: FlatRun, setting: Setting, _result: Estimate) -> Iterator[Finding]:
    """VP026."""
    for name in sorted(setting.stack.unread):
        yield Finding(
            rule="VP026",
            message=f"{name} {setting.stack.versions[name]} is newer than what was read of it",
            hint="the newest known behaviour is taken; compare with `vramplan simulate`",
            source="profiles/stacks: the newest version that was read",
        )


RULES: tuple[Rule, ...] = (
    *ROLLOUT_RULES,
    *PRECISION_RULES,
    fp32_weights,
    reference_at_zero_beta,
    second_step,
    unconverted_experts,
    kept_inputs,
    kbit_upcast,
    paged_states,
    full_logits,
    long_context,
    named_reference,
    several_gpus,
    left_out_parts,
    unread_versions,
    idle_settings,
)
