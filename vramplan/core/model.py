"""ModelShape: everything about a decoder-only model that costs memory, read once from its `config.json`.

A model is a tuple of layers, so hybrid, mixture-of-experts and sliding-window models are not special cases. Names of
modules and dimensions are those of transformers and of the config, so LoRA targets and error messages can be looked up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum


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

    @property
    def routed_weight_elements(self) -> int:
        """Elements of all routed experts' matrices, without biases."""
        return self.num_experts * 3 * self.hidden_size * self.intermediate_size


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


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredQuantization:
    """A checkpoint that is quantised on disk: its `quantization_config`.

    Args:
        method: `bitsandbytes`, `fp8`, `mxfp4`, `gptq`, `awq`, …: `quant_method` as written.
        bits: 4 or 8.
        double_quant: bitsandbytes' nested quantisation.
        four_bit_type: `nf4` or `fp4` for bitsandbytes 4-bit, else None.
        block_shape: rows × columns that share a scale (fp8: 128 × 128; mxfp4: 1 × 32), or None.
        skipped_modules: names left unquantised.
    """

    method: str
    bits: int
    double_quant: bool = False
    four_bit_type: str | None = None
    block_shape: tuple[int, int] | None = None
    skipped_modules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """`count` parameters of one shape: the unit in which weights, gradients and optimizer states are counted.

    Args:
        module: path of the module that holds it, inside the layer or the model, without layer or expert number.
        name: `weight`, `bias`, `gate_up_proj`, …
        shape: as transformers has it on the device.
        kind: what kind of module holds it.
        count: how many equal ones there are (layers × experts).
        per_layer: whether it sits inside a decoder layer.
    """

    module: str
    name: str
    shape: tuple[int, ...]
    kind: ModuleKind
    count: int = 1
    per_layer: bool = True

    @property
    def num_elements(self) -> int:
        """Elements of one of them."""
        product = 1
        for size in self.shape:
            product *= size
        return product

    @property
    def total_elements(self) -> int:
        """Elements of all of them."""
        return self.num_elements * self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A decoder-only language model.

    Args:
        model_type: the architecture whose code it is: the config's `model_type`, or what `--as` named instead.
        vocab_size: rows of the head, as configured (padding included where the config includes it).
        hidden_size: width of the residual stream.
        layers: the decoder blocks, in order.
        embeddings: token embedding first, then learned positions.
        final_norm: the norm before the head, or None.
        head: `lm_head`; its weight is the token embedding's when `tie_word_embeddings`.
        embedding_norm: a norm right after the embedding, or None.
        max_position_embeddings: the longest context the config allows.
        stored_dtype: the dtype named in the config (`bf16`, `fp16`, `fp32`), or None if it names none.
        embedding_multiplier: whether embeddings are scaled by an op of their own (gemma, granite).
        embedding_dropout: whether training drops out of the embedding (gpt2).
        logits_softcap: whether final logits pass through tanh (gemma2).
        logits_scaling: whether final logits are divided by a constant (granite).
        projection_in, projection_out: linear maps between word_embed_proj_dim and hidden_size (opt-350m), or None.
        stored_quantization: how the checkpoint on disk is quantised, or None.
        buffer_bytes: tables that live on the device and are no parameters, as transformers 5.23 loads them in bf16:
            the causal mask of gpt_bigcode, the routing correction of deepseek_v3 (kept in fp32). Rotary tables and
            scalars are left out: they are below 1 KiB.
        left_out: sections of the config that describe more than the language model counted here (`vision_config`).
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    layers: tuple[LayerShape, ...]
    embeddings: tuple[Embedding, ...]
    final_norm: Norm | None
    head: Linear
    tie_word_embeddings: bool
    max_position_embeddings: int
    embedding_norm: Norm | None = None
    stored_dtype: str | None = None
    embedding_multiplier: bool = False
    embedding_dropout: bool = False
    logits_softcap: bool = False
    logits_scaling: bool = False
    projection_in: Linear | None = None
    projection_out: Linear | None = None
    stored_quantization: StoredQuantization | None = None
    buffer_bytes: int = 0
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("a model needs at least one layer")

    def layer_groups(self) -> tuple[tuple[LayerShape, int], ...]:
        """Distinct layers with how often each occurs, in order of first appearance."""
        # Readers repeat one object, and comparing layers field by field is slow: count by identity first.
        repeated: dict[int, tuple[LayerShape, int]] = {}
        for layer in self.layers:
            repeated[id(layer)] = (layer, repeated.get(id(layer), (layer, 0))[1] + 1)
        counts: dict[LayerShape, int] = {}
        for layer, count in repeated.values():
            counts[layer] = counts.get(layer, 0) + count
        return tuple(counts.items())

    def weights(self, *, fused_experts: bool) -> tuple[Weight, ...]:
        """Every parameter once: tied heads are not listed.

        Args:
            fused_experts: whether routed experts are 3-D parameters (transformers ≥ 5) or one nn.Linear per
                expert (4.x). Models whose checkpoint is fused (gpt_oss) are fused in both. The router's kind is
                that of the same version (`linear_before_v5`).
        """
        weights: list[Weight] = []
        for embedding in self.embeddings:
            shape = (embedding.num_embeddings, embedding.embedding_dim)
            weights.append(
                Weight(module=embedding.name, name="weight", shape=shape, kind=ModuleKind.EMBEDDING, per_layer=False)
            )
        for optional in (self.embedding_norm, self.final_norm):
            if optional is not None:
                weights.extend(_norm_weights(optional, count=1, per_layer=False))
        for projection in (self.projection_in, self.projection_out):
            if projection is not None:
                weights.extend(_linear_weights(projection, count=1, per_layer=False))
        for layer, count in self.layer_groups():
            weights.extend(_layer_weights(layer, count, fused_experts=fused_experts))
        head = list(_linear_weights(self.head, count=1, per_layer=False))
        weights.extend(head[1:] if self.tie_word_embeddings else head)
        return tuple(weights)

    @property
    def num_parameters(self) -> int:
        """Parameters, tied ones counted once, as `sum(p.numel() for p in model.parameters())`."""
        return sum(weight.total_elements for weight in self.weights(fused_experts=True))

    def linears(self) -> Iterator[tuple[Linear, int]]:
        """Every nn.Linear-like module inside the layers, with how often it occurs (routed experts left out)."""
        for layer, count in self.layer_groups():
            for linear in layer_linears(layer):
                yield linear, count


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


def _linear_weights(linear: Linear, count: int, *, per_layer: bool = True) -> Iterator[Weight]:
    shape = (linear.out_features, linear.in_features)
    if linear.kind is ModuleKind.CONV1D:
        shape = (linear.in_features, linear.out_features)
    yield Weight(module=linear.name, name="weight", shape=shape, kind=linear.kind, count=count, per_layer=per_layer)
    if linear.bias:
        yield Weight(
            module=linear.name,
            name="bias",
            shape=(linear.out_features,),
            kind=linear.kind,
            count=count,
            per_layer=per_layer,
        )


def _norm_weights(norm: Norm, count: int, *, per_layer: bool = True) -> Iterator[Weight]:
    if not norm.affine:
        return
    for name in ("weight", "bias") if norm.bias else ("weight",):
        yield Weight(
            module=norm.name, name=name, shape=(norm.size,), kind=ModuleKind.NORM, count=count, per_layer=per_layer
        )


def _before_v5(linear: Linear, mlp: Mlp | MixtureOfExperts) -> Linear:
    """The linear as transformers 4.x built it: some routers were an nn.Linear there."""
    if isinstance(mlp, MixtureOfExperts) and mlp.linear_before_v5 and linear is mlp.router:
        return replace(linear, kind=ModuleKind.LINEAR)
    return linear


def _layer_weights(layer: LayerShape, count: int, *, fused_experts: bool) -> Iterator[Weight]:
    attention = layer.attention
    for linear in layer_linears(layer):
        yield from _linear_weights(linear if fused_experts else _before_v5(linear, layer.mlp), count)
    for norm in layer_norms(layer):
        yield from _norm_weights(norm, count)
    if attention.num_sinks:
        yield Weight(
            module="self_attn",
            name="sinks",
            shape=(attention.num_sinks,),
            kind=ModuleKind.PARAMETER,
            count=count,
        )
    if isinstance(layer.mlp, MixtureOfExperts):
        yield from _expert_weights(layer.mlp, count, fused=fused_experts)


def _expert_weights(moe: MixtureOfExperts, count: int, *, fused: bool) -> Iterator[Weight]:
    num_experts, hidden, width = moe.num_experts, moe.hidden_size, moe.intermediate_size
    if fused or moe.checkpoint_names is None:
        shapes: dict[str, tuple[int, ...]] = {
            "gate_up_proj": (num_experts, *_stored((2 * width, hidden), moe)),
            "down_proj": (num_experts, *_stored((hidden, width), moe)),
        }
        if moe.expert_bias:
            shapes["gate_up_proj_bias"] = (num_experts, 2 * width)
            shapes["down_proj_bias"] = (num_experts, hidden)
        for name, shape in shapes.items():
            yield Weight(module=moe.name, name=name, shape=shape, kind=ModuleKind.EXPERTS, count=count)
        return
    gate, up, down = moe.checkpoint_names
    for projection, rows, columns in ((gate, width, hidden), (up, width, hidden), (down, hidden, width)):
        linear = Linear(name=f"{moe.name}.{projection}", in_features=columns, out_features=rows, bias=moe.expert_bias)
        yield from _linear_weights(linear, count * num_experts)


def _stored(out_by_in: tuple[int, int], moe: MixtureOfExperts) -> tuple[int, int]:
    rows, columns = out_by_in
    return (columns, rows) if moe.input_major else (rows, columns)
