"""What each sharding strategy divides between GPUs, per GPU.

Sources: DeepSpeed docs/code-docs/source/memory.rst (ZeRO-2 4P + 16P/n, ZeRO-3 18P/n: 16-bit parameters and gradients,
fp32 master and two moments); torch FSDP full shard: parameters, gradients and states over n, one unit gathered ahead.
"""

from __future__ import annotations

from vramplan.core.quick import dataclass
from vramplan.core.run import Sharding, ShardingStrategy

MASTER_AND_MOMENTS_BYTES = 12
"""DeepSpeed keeps fp32 master weights, exp_avg and exp_avg_sq for each parameter that trains."""

GATHERED_LAYERS = 2
"""The layer that runs and the one prefetched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """By how many GPUs each kind of bytes is divided.

    Args:
        weights, gradients, states: divisors.
        deepspeed: whether DeepSpeed's own optimizer holds fp32 master weights.
        gradient_copies: how often gradients exist (DDP reduces them in buckets of their own).
    """

    weights: int = 1
    gradients: int = 1
    states: int = 1
    deepspeed: bool = False
    gradient_copies: int = 1


def division(sharding: Sharding) -> Division:
    """How a strategy divides over its GPUs."""
    count = sharding.num_gpus
    return {
        ShardingStrategy.NONE: Division(),
        ShardingStrategy.DDP: Division(gradient_copies=2),
        ShardingStrategy.ZERO1: Division(states=count, deepspeed=True),
        ShardingStrategy.ZERO2: Division(states=count, gradients=count, deepspeed=True),
        ShardingStrategy.ZERO3: Division(states=count, gradients=count, weights=count, deepspeed=True),
        ShardingStrategy.FSDP_FULL_SHARD: Division(states=count, gradients=count, weights=count),
    }[sharding.strategy]


def share(sizes: tuple[tuple[int, int], ...], divisor: int) -> tuple[tuple[int, int], ...]:
    """(bytes, count) of what one GPU holds of each tensor."""
    return sizes if divisor == 1 else tuple((-(-size // divisor), count) for size, count in sizes)
