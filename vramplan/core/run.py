"""Run: which models in which roles, how they are loaded, what is done with them. Everything resolved, nothing optional
that a formula would have to guess."""

from __future__ import annotations

from enum import Enum

from vramplan.core.quick import dataclass
from vramplan.dtypes import DType


class Method(str, Enum):
    """What is done with the models."""

    INFERENCE = "inference"  # prefill, then decode with a KV cache
    SCORE = "score"  # one forward that returns full logits, without gradients
    SFT = "sft"
    DPO = "dpo"
    GRPO = "grpo"  # TRL's GRPOTrainer
    RLT = "rlt"  # SakanaAI/RLT's teacher trainer: teacher, student and reference

    @property
    def trains(self) -> bool:
        """Whether weights or adapters change."""
        return self not in (Method.INFERENCE, Method.SCORE)

    @property
    def rolls_out(self) -> bool:
        """Whether completions are generated during training."""
        return self in (Method.GRPO, Method.RLT)


class Tuning(str, Enum):
    """Which parameters train."""

    FULL = "full"
    LORA = "lora"


class Quantization(str, Enum):
    """How bitsandbytes stores the linear layers."""

    NONE = "none"
    INT8 = "int8"  # LLM.int8
    NF4 = "nf4"
    FP4 = "fp4"
    STORED = "stored"  # as the checkpoint is quantised on disk (fp8, mxfp4)

    @property
    def is_bitsandbytes(self) -> bool:
        """Whether bitsandbytes converts the linear layers."""
        return self in (Quantization.INT8, Quantization.NF4, Quantization.FP4)


class AttentionImplementation(str, Enum):
    """Which attention code runs."""

    EAGER = "eager"
    SDPA = "sdpa"
    FLASH_ATTENTION_2 = "flash_attention_2"


class RolloutBackend(str, Enum):
    """What generates completions."""

    HF = "hf"  # transformers' generate on the training weights
    VLLM_COLOCATE = "vllm-colocate"  # an engine with its own weight copy on the same card
    VLLM_SERVER = "vllm-server"  # an engine on other cards


class ShardingStrategy(str, Enum):
    """How states are divided over GPUs."""

    NONE = "none"
    DDP = "ddp"
    ZERO1 = "zero1"
    ZERO2 = "zero2"
    ZERO3 = "zero3"
    FSDP_FULL_SHARD = "fsdp_full_shard"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSpec:
    """How one model's weights sit on the device.

    Args:
        dtype: of everything that is not quantised.
        quantization: of the linear layers that bitsandbytes converts.
        double_quant: 4-bit only: block scales are themselves quantised in blocks of 256.
        kbit_fp32_upcast: peft's prepare_model_for_kbit_training made the rest fp32.
        kbit_norms_only: TRL's own function of that name made norms fp32, and nothing else.
        kbit_bf16_embeddings: TRL then cast embeddings and head to bf16 (its peft_module_casting_to_bf16).
    """

    dtype: DType
    quantization: Quantization = Quantization.NONE
    double_quant: bool = False
    kbit_fp32_upcast: bool = False
    kbit_norms_only: bool = False
    kbit_bf16_embeddings: bool = False

    def __post_init__(self) -> None:
        if self.kbit_norms_only and not self.kbit_fp32_upcast:
            raise ValueError("norms alone become fp32 only where something does")


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """One model of the run.

    Args:
        name: `model` where there is one only, else `teacher`, `student` or `reference`.
        model: the name it was asked for by.
        load: how it is loaded.
        offloaded: whether it rests in host memory outside the phases that use it.
        shares: the role whose weights it uses instead of its own (a null student is the reference), or None.
    """

    name: str
    model: str
    load: LoadSpec
    offloaded: bool = False
    shares: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """Low-rank adapters.

    Args:
        r: rank.
        target_modules: module name endings, as peft matches them; `("all-linear",)` for every converted linear.
        dtype: of the adapter weights.
    """

    r: int
    target_modules: tuple[str, ...]
    dtype: DType

    def __post_init__(self) -> None:
        if self.r < 1:
            raise ValueError(f"LoRA rank must be at least 1, not {self.r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What a training step does.

    Args:
        tuning: full or LoRA.
        lora: the adapters, None when tuning is full.
        mixed_precision: the autocast dtype, or None without autocast.
        optim: transformers' `--optim` name.
        gradient_checkpointing: whether each layer is recomputed in the backward.
        gradient_accumulation_steps: micro-batches per optimizer update.
        reentrant_checkpointing: by torch's older, reentrant variant.
    """

    tuning: Tuning
    lora: Lora | None
    mixed_precision: DType | None
    optim: str
    gradient_checkpointing: bool
    gradient_accumulation_steps: int
    reentrant_checkpointing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Rows and tokens.

    Args:
        per_device_batch_size: rows in one forward.
        batch_size: completions per optimizer update over all devices, or None where nothing asks for it.
        num_generations: completions per prompt (1 outside GRPO-style runs).
        rollout_rows: rows that one GPU generates in one call.
        max_prompt_length: prompt tokens of a row.
        max_completion_length: completion tokens of a row; 0 where a row is one sequence (sft, score).
    """

    per_device_batch_size: int
    batch_size: int | None
    num_generations: int
    rollout_rows: int
    max_prompt_length: int
    max_completion_length: int

    @property
    def sequence_length(self) -> int:
        """Tokens of a row, prompt and completion."""
        return self.max_prompt_length + self.max_completion_length


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """How completions are made.

    Args:
        backend: transformers, vLLM on the same card, or vLLM elsewhere.
        gpu_memory_utilization: vLLM's share of the whole card.
        sleep: whether vLLM gives its memory back outside the rollout.
    """

    backend: RolloutBackend
    gpu_memory_utilization: float
    sleep: bool

    def engine_bytes(self, total_bytes: int) -> int:
        """What a colocated vLLM takes of a card of `total_bytes` while it is awake, its own weights included."""
        return int(self.gpu_memory_utilization * total_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharding:
    """How many GPUs share the states, and which of them."""

    num_gpus: int = 1
    strategy: ShardingStrategy = ShardingStrategy.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run, complete: what estimate, simulate and measure take.

    Args:
        method: what is done.
        roles: the models, the trained one first.
        training: None for inference and score.
        attn_implementation: which attention code runs.
        sizes: rows and tokens.
        rollout: None where nothing is generated by a trainer.
        beta: the KL coefficient of GRPO and DPO, or None elsewhere; 0 lets TRL skip the reference.
        sharding: how states are divided.
        launched: whether accelerate or torchrun launches the run, and so a Trainer runs the loop.
    """

    method: Method
    roles: tuple[Role, ...]
    training: Training | None
    attn_implementation: AttentionImplementation
    sizes: Sizes
    rollout: Rollout | None
    beta: float | None
    sharding: Sharding
    launched: bool = False

    def role(self, name: str) -> Role | None:
        """The role of that name, or None."""
        return next((role for role in self.roles if role.name == name), None)

    @property
    def trained(self) -> Role:
        """The role whose weights or adapters change (the only model of an inference run)."""
        return self.roles[0]
