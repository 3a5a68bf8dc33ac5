"""LayerShape: everything about one decoder block that costs memory.

Names of modules and dimensions are those of transformers and of the config, so LoRA targets and error messages can be
looked up.
"""

from __future__ import annotations

from enum import Enum

from vramplan.core.quick import dataclass


class ModuleKind(str, Enum):
    """What holds a weight, as far as quantisers and LoRA care."""

    LINEAR = "linear"  # torch.nn.Linear
    # A subclass of nn.Linear, as FalconLinear (transformers models/falcon/modeling_falcon.py:59). bitsandbytes replaces
    # it up to transformers 5.4.0 (`isinstance(module, nn.Linear)`: integrations/bitsandbytes.py:168 in 4.51.1, :167 in
    # 4.57.6, :184 in 5.0.0) and leaves it from 5.5.0 on (`type(module) is nn.Linear`: :184 in 5.5.0, :189 in 5.23.0).
    LINEAR_SUBCLASS = "linear_subclass"
    CONV1D = "conv1d"  # transformers.pytorch_utils.Conv1D (gpt2): weight is (in, out)
    HEAD = "head"  # lm_head: an nn.Linear that every quantiser skips by default
    EMBEDDING = "embedding"
    NORM = "norm"
    EXPERTS = "experts"  # the routed experts: one 3-D parameter each (fused) or one nn.Linear per expert
    ROUTER = "router"  # a bare parameter that routes, not an nn.Linear
    PARAMETER = "parameter"  # any other bare parameter (attention sinks)


class NormKind(str, Enum):
    """Which code normalises: it decides the temporaries, not only the parameters."""

    RMS = "rms"  # LlamaRMSNorm: computes in fp32 by hand, weight * x.to(input dtype)
    RMS_GEMMA = "rms_gemma"  # Gemma2RMSNorm: whole product in fp32, (1 + weight)
    RMS_GPT_OSS = "rms_gpt_oss"  # GptOssRMSNorm: (weight * x).to(input dtype), product in fp32
    LAYER = "layer"  # torch.nn.LayerNorm


class ResidualStyle(str, Enum):
    """How a block is wired."""

    PRE_NORM = "pre_norm"  # x + attn(norm(x)); x + mlp(norm(x))
    SANDWICH = "sandwich"  # gemma2/3: norms before and after attention and mlp
    PARALLEL = "parallel"  # gpt_neox with use_parallel_residual: x + attn(norm1(x)) + mlp(norm2(x))
    PARALLEL_SHARED = "parallel_shared"  # falcon-7b: one norm feeds both
    POST_NORM = "post_norm"  # opt-350m: norm(x + attn(x)); norm(x + mlp(x))


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A matrix multiplication with a weight of `out_features` × `in_features`.

    Args:
        name: the module's path inside its layer (`self_attn.q_proj`) or inside the model (`lm_head`).
        in_features: columns.
        out_features: rows: LLM.int8 keeps one fp32 scale for each.
        bias: whether a bias of `out_features` is added.
        kind: LINEAR, LINEAR_SUBCLASS, CONV1D, HEAD or ROUTER.
    """

    name: str
    in_features: int
    out_features: int
    bias: bool = False
    kind: ModuleKind = ModuleKind.LINEAR

    def __post_init__(self) -> None:
        if self.in_features <= 0 or self.out_features <= 0:
            raise ValueError(f"{self.name} must have more than zero features")


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """A normalisation over `size` features, with a weight and, if `bias`, a bias; with neither unless `affine`."""

    name: str
    size: int
    kind: NormKind = NormKind.RMS
    bias: bool = False
    affine: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """A lookup table of `num_embeddings` × `embedding_dim` (tokens, or learned positions)."""

    name: str
    num_embeddings: int
    embedding_dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SeparateProjections:
    """Three projections: llama and most others."""

    query: Linear
    key: Linear
    value: Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedProjection:
    """One projection for query, key and value: gpt2 `c_attn`, gpt_neox, falcon `query_key_value`, phi3 `qkv_proj`."""

    query_key_value: Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentProjections:
    """Multi-head latent attention (DeepSeek): low-rank queries and one compressed key/value for all heads.

    Args:
        query: full-rank query projection when `q_lora_rank` is None, else None.
        query_down, query_norm, query_up: `q_a_proj`, `q_a_layernorm`, `q_b_proj`, or None.
        key_value_down: `kv_a_proj_with_mqa` to `kv_lora_rank + qk_rope_head_dim`.
        key_value_norm: `kv_a_layernorm`.
        key_value_up: `kv_b_proj` to heads × (`qk_nope_head_dim` + `v_head_dim`).
    """

    query: Linear | None
    query_down: Linear | None
    query_norm: Norm | None
    query_up: Linear | None
    key_value_down: Linear
    key_value_norm: Norm
    key_value_up: Linear
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Self-attention of one layer.

    Args:
        num_attention_heads: query heads.
        num_key_value_heads: heads of keys and values (grouped-query attention when fewer).
        head_dim: width of one query or key head; not always hidden_size / heads.
        v_head_dim: width of one value head.
        projections: how queries, keys and values are made.
        output: the output projection.
        rotary_dim: how many of `head_dim` are rotated; 0 where positions are learned or added (alibi).
        sliding_window: tokens that a query sees, or None for all before it.
        query_norm, key_norm: per-head norms (qwen3, gemma3), or None.
        num_sinks: learned sink logits (gpt_oss: one per query head), else 0.
        softcap: whether attention logits pass through tanh (gemma2).
        alibi: whether a bias that grows with distance is added to the logits (falcon-rw).
        dropout: whether training drops attention probabilities out (gpt2).
    """

    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    v_head_dim: int
    projections: SeparateProjections | FusedProjection | LatentProjections
    output: Linear
    rotary_dim: int
    sliding_window: int | None = None
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    num_sinks: int = 0
    softcap: bool = False
    alibi: bool = False
    dropout: bool = False

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"{self.num_attention_heads} attention heads are not a multiple of "
                f"{self.num_key_value_heads} key/value heads"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mlp:
    """A dense feed-forward block: gated (gate, up, down), gate and up fused (phi3), or plain (up, down)."""

    intermediate_size: int
    up: Linear
    down: Linear
    gate: Linear | None = None
    fused_gate_up: bool = False  # `up` makes 2 × intermediate_size in one matmul (phi3 gate_up_proj)
    activation: str = "silu"


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureOfExperts:
    """Routed experts, all of one size, with optional shared experts that see every token.

    Args:
        router: the routing matrix of num_experts × hidden_size; kind LINEAR where transformers uses an nn.Linear.
        num_experts: routed experts in the layer.
        num_experts_per_tok: experts each token passes through.
        intermediate_size: width of one expert (`moe_intermediate_size`).
        name: path of the experts inside the layer (`mlp.experts`).
        expert_bias: whether each expert's projections have biases (gpt_oss).
        shared: dense expert beside the routed ones, or None.
        checkpoint_names: the per-expert projections' names in the checkpoint (and in transformers < 5),
            as (`gate_proj`, `up_proj`, `down_proj`) or (`w1`, `w3`, `w2`); None where the checkpoint is fused too.
        linear_before_v5: whether the router was an nn.Linear, and so converted by bitsandbytes, before transformers
            5.0 made it a bare parameter: mixtral and qwen3_moe (4.57.6 modeling_mixtral.py:95,
            modeling_qwen3_moe.py:221), but not deepseek_v3 or gpt_oss.
        input_major: whether fused matrices are stored (experts, in, out), as in gpt_oss, and not (experts, out, in).
    """

    router: Linear
    num_experts: int
    num_experts_per_tok: int
    hidden_size: int
    intermediate_size: int
    name: str
    expert_bias: bool = False
    shared: Mlp | None = None
    checkpoint_names: tuple[str, str, str] | None = ("gate_proj", "up_proj", "down_proj")
    activation: str = "silu"
    linear_before_v5: bool = False
    input_major: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """One decoder block.

    Args:
        norms: in the order of the forward: (before attention, before mlp), or the four of a sandwich, or one shared.
        residual_multiplier: whether the branches are scaled before they are added (granite).
        dropout: whether training drops out of each branch before it is added (gpt2, opt).
    """

    attention: Attention
    mlp: Mlp | MixtureOfExperts
    norms: tuple[Norm, ...]
    residual: ResidualStyle = ResidualStyle.PRE_NORM
    residual_multiplier: bool = False
    dropout: bool = False


def layer_linears(layer: LayerShape) -> tuple[Linear, ...]:
    """The projections of one layer in the order of the forward, the router among them, routed experts left out."""
    projections = layer.attention.projections
    found: list[Linear | None]
    if isinstance(projections, SeparateProjections):
        found = [projections.query, projections.key, projections.value]
    elif isinstance(projections, FusedProjection):
        found = [projections.query_key_value]
    else:
        found = [projections.query, projections.query_down, projections.query_up]
        found += [projections.key_value_down, projections.key_value_up]
    found.append(layer.attention.output)
    if isinstance(layer.mlp, MixtureOfExperts):
        found.append(layer.mlp.router)
        dense = layer.mlp.shared
    else:
        dense = layer.mlp
    if dense is not None:
        found += [dense.gate, dense.up, dense.down]
    return tuple(linear for linear in found if linear is not None)


def layer_norms(layer: LayerShape) -> tuple[Norm, ...]:
    """Every norm of one layer, those inside attention among them."""
    attention = layer.attention
    norms: list[Norm | None] = [*layer.norms, attention.query_norm, attention.key_norm]
    if isinstance(attention.projections, LatentProjections):
        norms += [attention.projections.query_norm, attention.projections.key_value_norm]
    return tuple(norm for norm in norms if norm is not None)
