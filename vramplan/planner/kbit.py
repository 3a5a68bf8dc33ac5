"""What TRL does by itself to a quantised model before it trains adapters on it, by version.

Read in the wheels of TRL 0.13.0 to 1.16.0: trainer/{sft,dpo,grpo}_trainer.py and models/utils.py prepare_peft_model.
"""

from __future__ import annotations

from dataclasses import replace

from vramplan.core.run import LoadSpec, Method, Quantization, ShardingStrategy
from vramplan.core.stack import Stack

_SHARDED = frozenset({ShardingStrategy.ZERO3.value, ShardingStrategy.FSDP_FULL_SHARD.value})


def preparation(method: Method, stack: Stack) -> str:
    """What the trainer of a method prepares: `none`, `everything` (peft's function) or `norms` (TRL's own)."""
    return {Method.SFT: stack.sft_kbit, Method.DPO: stack.dpo_kbit, Method.GRPO: stack.grpo_kbit}.get(method, "none")


def casts_adapters(method: Method, stack: Stack) -> bool:
    """Whether the trainer of a method casts the adapters of a quantised model to bf16."""
    casts = {
        Method.SFT: stack.sft_bf16_adapters,
        Method.DPO: stack.dpo_bf16_adapters,
        Method.GRPO: stack.grpo_bf16_adapters,
    }
    return casts.get(method, False)


def as_trainer_prepares(load: LoadSpec, method: Method, stack: Stack, *, mixed: str, sharding: str | None) -> LoadSpec:
    """How a quantised model sits on the device once TRL has prepared it for its adapters.

    Args:
        load: how it was loaded.
        method: whose trainer it is.
        stack: the versions.
        mixed: the autocast dtype, or `no`.
        sharding: the strategy that was asked for.
    """
    prepares = preparation(method, stack)
    four_bit = load.quantization in (Quantization.NF4, Quantization.FP4)
    # `is_sharded_qlora`: 4-bit weights that wait on the host or on meta; DPOTrainer does not ask.
    sharded = four_bit and sharding in _SHARDED and method is not Method.DPO
    if prepares == "none" or sharded or not load.quantization.is_bitsandbytes:
        return load
    return replace(
        load,
        kbit_fp32_upcast=True,
        kbit_norms_only=prepares == "norms",
        kbit_bf16_embeddings=four_bit and mixed == "bf16",  # `args.bf16 and is_loaded_in_4bit`
    )
