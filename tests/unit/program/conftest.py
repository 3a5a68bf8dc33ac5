from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vramplan.core.run import (
    AttentionImplementation,
    LoadSpec,
    Lora,
    Method,
    Quantization,
    Role,
    Rollout,
    Run,
    Sharding,
    Sizes,
    Training,
    Tuning,
)
from vramplan.dtypes import DType

pytest.importorskip("torch")
pytest.importorskip("transformers")

TINY_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}


@pytest.fixture
def tiny() -> dict[str, Any]:
    return dict(TINY_LLAMA)


@pytest.fixture
def make_run() -> Callable[..., Run]:
    def make(
        method: Method = Method.SFT,
        *,
        tuning: str = "lora",
        dtype: DType = DType.BF16,
        quantization: Quantization = Quantization.NONE,
        mixed: DType | None = None,
        checkpointing: bool = False,
        attention: str = "sdpa",
        optim: str = "adamw_torch",
        accumulation: int = 1,
        rows: int = 2,
        tokens: int = 64,
        completion: int = 0,
        roles: tuple[Role, ...] | None = None,
        rollout: Rollout | None = None,
        targets: tuple[str, ...] = ("q_proj", "v_proj"),
        upcast: bool = False,
        reentrant: bool = False,
    ) -> Run:
        training = None
        if method.trains:
            lora = Lora(r=4, target_modules=targets, dtype=DType.FP32) if tuning == "lora" else None
            training = Training(
                tuning=Tuning(tuning),
                lora=lora,
                mixed_precision=mixed,
                optim=optim,
                gradient_checkpointing=checkpointing,
                gradient_accumulation_steps=accumulation,
                reentrant_checkpointing=reentrant,
            )
        load = LoadSpec(dtype=dtype, quantization=quantization, kbit_fp32_upcast=upcast)
        return Run(
            method=method,
            roles=roles or (Role(name="model", model="tiny", load=load),),
            training=training,
            attn_implementation=AttentionImplementation(attention),
            sizes=Sizes(
                per_device_batch_size=rows,
                batch_size=None,
                num_generations=1,
                rollout_rows=rows,
                max_prompt_length=tokens,
                max_completion_length=completion,
            ),
            rollout=rollout,
            beta=None,
            sharding=Sharding(),
        )

    return make
