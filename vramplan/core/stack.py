"""Stack: what the installed versions of the libraries change about memory, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from vramplan.core.quick import dataclass


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stack:
    """Versions, and the behaviours that follow from them. They compare by identity.

    Every behaviour below is set by `profiles/stacks/*.toml`, each change there with its version and its source.

    Args:
        versions: package name to version.
        unread: packages whose version is newer than the newest that was read.
        named: the packages whose version the user gave (the rest is what is installed, or the newest known).
        fused_experts: transformers keeps routed experts in 3-D parameters, which bitsandbytes does not convert.
        converts_linear_subclasses: bitsandbytes replaces subclasses of nn.Linear too (FalconLinear).
        default_dtype: what from_pretrained loads without a dtype: `fp32` or `auto` (the checkpoint's own).
        loss_shifts_logits: the model's loss shifts and copies the fp32 logits instead of shifting the labels.
        every_loss_upcasts: gpt2, gpt_neox, opt, falcon and gpt_bigcode compute their loss in fp32 too.
        model_upcasts_logits: the model returns fp32 logits when it is given labels or trains.
        generate_keeps_one_logit: generate() asks the prefill for the last token's logits only.
        sliding_cache: the cache of a sliding-window layer keeps its window only.
        sdpa_groups_heads: sdpa is given fewer key/value heads instead of repeated ones.
        reentrant_checkpointing: gradient checkpointing is torch's reentrant variant unless something says otherwise.
        checkpoints_return_keys: gpt_bigcode returns keys and values under gradient checkpointing too.
        warms_up_allocator: from_pretrained allocates a model's worth of device memory first.
        latent_cache_compressed: DeepSeek's cache holds the latents, not the expanded keys and values.
        rows_are_prompts: TRL's per-device batch counts prompts, each with all its completions.
        selective_log_softmax: TRL takes log-probabilities row by row instead of a log-softmax of everything.
        reference_skipped_at_zero_beta: TRL loads no reference when beta is 0.
        default_beta: TRL GRPO's beta.
        trainer_load_dtype: what TRL loads a model given by name in: `fp32`, `auto` or `unset` (transformers' own).
        trainer_mixed_bf16: TRL trains under bf16 autocast unless told otherwise.
        generates_whole_batch: TRL generates for a whole accumulation cycle at once.
        vllm_colocate_available: TRL can run the engine in the training process.
        vllm_sleep_available: TRL can put the colocated engine to sleep.
        default_vllm_utilization: TRL's vllm_gpu_memory_utilization.
        default_checkpointing: TRL turns gradient checkpointing on by itself.
        trainer_avoids_reentrant: TRL asks for the other variant by itself.
        temperature_in_place: TRL divides logits by the temperature in place.
        fused_lm_head: TRL never makes full logits in training (GRPO, DPO, SFT).
        sft_disables_cache: TRL SFT asks its model for no keys and values.
        sft_chunked_loss: TRL SFT computes the loss in chunks of tokens.
        sft_kbit, dpo_kbit, grpo_kbit: what that trainer makes fp32 of a quantised model before it adds adapters:
            `none`, `everything` (peft's prepare_model_for_kbit_training) or `norms` (TRL's own).
        sft_bf16_adapters, dpo_bf16_adapters, grpo_bf16_adapters: that trainer casts the adapters of a quantised model
            to bf16.
        fused_four_bit_forward: bitsandbytes multiplies small batches without dequantising the weight.
        four_bit_saves_input: bitsandbytes' 4-bit product keeps its input for the backward.
        adapters_cast_to_fp32: peft keeps adapters in fp32 whatever the base dtype.
        adapts_fused_experts: peft adapts the fused parameters where target_modules names transformers 4's projections.
        all_linear_reaches_experts: peft's `all-linear` means those parameters too, instead of failing on such a model.
        expert_adapters_folded: peft adds an expert adapter to its parameter in one product, without a delta of its own.
        fused_optimizer_default: transformers' default `optim` is the fused AdamW, where torch is new enough.
        fused_optimizer_trusted: torch is new enough for that.
    """

    versions: Mapping[str, str]
    named: frozenset[str] = field(default_factory=frozenset)
    unread: frozenset[str] = field(default_factory=frozenset)
    fused_experts: bool
    converts_linear_subclasses: bool
    default_dtype: str
    loss_shifts_logits: bool
    every_loss_upcasts: bool
    model_upcasts_logits: bool
    generate_keeps_one_logit: bool
    sliding_cache: bool
    sdpa_groups_heads: bool
    reentrant_checkpointing: bool
    checkpoints_return_keys: bool
    warms_up_allocator: bool
    latent_cache_compressed: bool
    rows_are_prompts: bool
    selective_log_softmax: bool
    reference_skipped_at_zero_beta: bool
    default_beta: float
    trainer_load_dtype: str
    trainer_mixed_bf16: bool
    generates_whole_batch: bool
    vllm_colocate_available: bool
    vllm_sleep_available: bool
    default_vllm_utilization: float
    default_checkpointing: bool
    trainer_avoids_reentrant: bool
    temperature_in_place: bool
    fused_lm_head: bool
    sft_disables_cache: bool
    sft_chunked_loss: bool
    sft_kbit: str
    dpo_kbit: str
    grpo_kbit: str
    sft_bf16_adapters: bool
    dpo_bf16_adapters: bool
    grpo_bf16_adapters: bool
    fused_four_bit_forward: bool
    four_bit_saves_input: bool
    adapters_cast_to_fp32: bool
    adapts_fused_experts: bool
    all_linear_reaches_experts: bool
    expert_adapters_folded: bool
    fused_optimizer_default: bool
    fused_optimizer_trusted: bool
