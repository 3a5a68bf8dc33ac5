"""ModelShape: everything about a decoder-only model that costs memory, read once from its `config.json`.

A model is a tuple of layers, so hybrid, mixture-of-experts and sliding-window models are not special cases. Names of
modules and dimensions are those of transformers and of the config, so LoRA targets and error messages can be looked up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field, replace
from functools import lru_cache

from vramplan.core.layers import (
    Attention,
    Embedding,
    FusedProjection,
    LatentProjections,
    LayerShape,
    Linear,
    MixtureOfExperts,
    Mlp,
    ModuleKind,
    Norm,
    NormKind,
    ResidualStyle,
    SeparateProjections,
    layer_linears,
    layer_norms,
)
from vramplan.core.quick import dataclass

__all__ = [
    "Attention",
    "Embedding",
    "FusedProjection",
    "LatentProjections",
    "LayerShape",
    "Linear",
    "MixtureOfExperts",
    "Mlp",
    "ModelShape",
    "ModuleKind",
    "Norm",
    "NormKind",
    "ResidualStyle",
    "SeparateProjections",
    "StoredQuantization",
    "Weight",
    "layer_linears",
    "layer_norms",
]


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
    layers: tuple[LayerShape, ...] = field(hash=False)  # to hash 80 of them takes longer than what is looked up by it
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
        return _layer_groups(self)

    def weights(self, *, fused_experts: bool) -> tuple[Weight, ...]:
        """Every parameter once: tied heads are not listed.

        Args:
            fused_experts: whether routed experts are 3-D parameters (transformers ≥ 5) or one nn.Linear per
                expert (4.x). Models whose checkpoint is fused (gpt_oss) are fused in both. The router's kind is
                that of the same version (`linear_before_v5`).
        """
        return _weights(self, fused_experts)

    @property
    def num_parameters(self) -> int:
        """Parameters, tied ones counted once, as `sum(p.numel() for p in model.parameters())`."""
        return sum(weight.total_elements for weight in self.weights(fused_experts=True))

    def linears(self) -> Iterator[tuple[Linear, int]]:
        """Every nn.Linear-like module inside the layers, with how often it occurs (routed experts left out)."""
        for layer, count in self.layer_groups():
            for linear in layer_linears(layer):
                yield linear, count


# A run asks for both several times for each of its models, and the runs of one process mostly share models.
@lru_cache(maxsize=64)
def _layer_groups(model: ModelShape) -> tuple[tuple[LayerShape, int], ...]:
    # Readers repeat one object, and comparing layers field by field is slow: count by identity first.
    repeated: dict[int, tuple[LayerShape, int]] = {}
    for layer in model.layers:
        repeated[id(layer)] = (layer, repeated.get(id(layer), (layer, 0))[1] + 1)
    counts: dict[LayerShape, int] = {}
    for layer, count in repeated.values():
        counts[layer] = counts.get(layer, 0) + count
    return tuple(counts.items())


@lru_cache(maxsize=64)
def _weights(model: ModelShape, fused_experts: bool) -> tuple[Weight, ...]:
    weights: list[Weight] = []
    for embedding in model.embeddings:
        shape = (embedding.num_embeddings, embedding.embedding_dim)
        weights.append(
            Weight(module=embedding.name, name="weight", shape=shape, kind=ModuleKind.EMBEDDING, per_layer=False)
        )
    for optional in (model.embedding_norm, model.final_norm):
        if optional is not None:
            weights.extend(_norm_weights(optional, count=1, per_layer=False))
    for projection in (model.projection_in, model.projection_out):
        if projection is not None:
            weights.extend(_linear_weights(projection, count=1, per_layer=False))
    for layer, count in model.layer_groups():
        weights.extend(_layer_weights(layer, count, fused_experts=fused_experts))
    head = list(_linear_weights(model.head, count=1, per_layer=False))
    weights.extend(head[1:] if model.tie_word_embeddings else head)
    return tuple(weights)


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
