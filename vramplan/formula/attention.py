"""Self-attention: projections, norms on heads, rotary positions, the cache, and one of the implementations.

Sources: transformers 5.23.0 models/*/modeling_*.py and integrations/sdpa_attention.py (what is copied, which local
variables stay alive through the output projection).
"""

from __future__ import annotations

from dataclasses import dataclass

from vramplan.core.model import Attention, FusedProjection, LatentProjections, Norm, SeparateProjections
from vramplan.core.run import AttentionImplementation
from vramplan.dtypes import DType
from vramplan.formula.batch import Batch, LayerInputs
from vramplan.formula.code import Split
from vramplan.formula.eager import eager_attention
from vramplan.formula.falcon import falcon_eager, falcon_heads
from vramplan.formula.kernels import efficient, flash, math_attention
from vramplan.formula.kv_cache import group_size, update_cache
from vramplan.formula.latent import latent_projections
from vramplan.formula.linear import Weights, linear
from vramplan.formula.norms import normalise
from vramplan.formula.ops import autocast_dtype, chunk, copy, narrow, repeat, scale
from vramplan.formula.rotary import joins_heads, rotate
from vramplan.formula.tape import Tape, Tensor

MAX_FLASH_HEAD_DIM = 256
"""sdp_utils.cpp check_head_dim_size_flash; sdpa_attention.py use_gqa_in_sdpa repeats wider heads."""


@dataclass(slots=True, kw_only=True)
class AttentionWeights:
    """The modules of one attention block, by the names of `vramplan.core.model`.

    Args:
        linears: projections.
        norms: weights of the norms.
        sinks: learned sink logits, or None.
    """

    linears: dict[str, Weights]
    norms: dict[str, Tensor]
    sinks: Tensor | None = None


def attention(
    tape: Tape,
    hidden: Tensor,
    shape: Attention,
    weights: AttentionWeights,
    batch: Batch,
    inputs: LayerInputs,
    caches: list[Tensor],
) -> tuple[Tensor, Tensor | None]:
    """`self_attn(hidden)`.

    Args:
        tape: where it allocates.
        hidden: the normalised hidden states.
        shape: heads and widths.
        weights: the modules.
        batch: rows, tokens.
        inputs: positions, mask.
        caches: where new cache tensors are kept.

    Returns:
        The output and the attention weights, which eager attention hands to the decoder layer.
    """
    latent = isinstance(shape.projections, LatentProjections)
    alive: tuple[Tensor, ...] = ()
    if latent:
        query, key, value, alive = latent_projections(
            tape, hidden, shape, weights.linears, weights.norms, batch, inputs, caches
        )
    else:
        query, key, value, alive = _projections(tape, hidden, shape, weights, inputs)
        if inputs.cosine is not None and shape.rotary_dim:
            query, key, parts = rotate(tape, query, key, shape, inputs)
            alive += parts
            del parts
    if batch.returns_keys:  # views of the fused projection, all of which they keep
        caches.append(Tensor(alive[0].storage, key.numel + value.numel, key.dtype))
    if batch.caches and not (latent and batch.latent_cache):
        key, value = update_cache(tape, key, value, shape, batch, caches)
    with tape.owner("attention"):
        weighted, probabilities = _attend(tape, query, key, value, shape, weights, batch, inputs, hidden.dtype)
    result = linear(tape, weighted, weights.linears[shape.output.name])
    del alive
    return result, probabilities


def _projections(
    tape: Tape, hidden: Tensor, shape: Attention, weights: AttentionWeights, inputs: LayerInputs
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
    """Queries, keys and values, normalised per head where the architecture does, and what else stays alive."""
    projections, linears = shape.projections, weights.linears
    if isinstance(projections, FusedProjection):
        fused = linear(tape, hidden, linears[projections.query_key_value.name])
        if inputs.code.split is Split.FALCON:
            return (*falcon_heads(tape, fused, shape), (fused,))
        group = fused.numel // (shape.num_attention_heads + 2 * shape.num_key_value_heads)
        query_numel, key_numel = group * shape.num_attention_heads, group * shape.num_key_value_heads
        if inputs.code.split is Split.CHUNK:
            query, key, value = chunk(tape, fused, (query_numel, key_numel, key_numel))
        else:
            query, key, value = (narrow(tape, fused, numel) for numel in (query_numel, key_numel, key_numel))
        return query, key, value, (fused,)
    assert isinstance(projections, SeparateProjections)
    if inputs.code.norms_after_projections:
        query = linear(tape, hidden, linears[projections.query.name])
        key = linear(tape, hidden, linears[projections.key.name])
        value = linear(tape, hidden, linears[projections.value.name])
        query = _head_norm(tape, query, weights, shape.query_norm)
        return query, _head_norm(tape, key, weights, shape.key_norm), value, ()
    query = _head_norm(tape, linear(tape, hidden, linears[projections.query.name]), weights, shape.query_norm)
    if inputs.code.scales_query:
        query = scale(tape, query)
    key = _head_norm(tape, linear(tape, hidden, linears[projections.key.name]), weights, shape.key_norm)
    return query, key, linear(tape, hidden, linears[projections.value.name]), ()


def _head_norm(tape: Tape, states: Tensor, weights: AttentionWeights, norm: Norm | None) -> Tensor:
    if norm is None:
        return states
    return normalise(tape, states, weights.norms[norm.name], kind=norm.kind, size=norm.size)


def _attend(
    tape: Tape,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    shape: Attention,
    weights: AttentionWeights,
    batch: Batch,
    inputs: LayerInputs,
    hidden_dtype: DType,
) -> tuple[Tensor, Tensor | None]:
    if batch.implementation is AttentionImplementation.EAGER:
        if inputs.code.calls_sdpa:
            return falcon_eager(tape, query, key, value, shape, batch, inputs, hidden_dtype)
        return eager_attention(tape, query, key, value, shape, batch, inputs, weights.sinks)
    if batch.implementation is AttentionImplementation.FLASH_ATTENTION_2:
        return _flash(tape, query, key, value, shape, batch, inputs), None
    return _sdpa(tape, query, key, value, shape, batch, inputs), None


def _flash(
    tape: Tape, query: Tensor, key: Tensor, value: Tensor, shape: Attention, batch: Batch, inputs: LayerInputs
) -> Tensor:
    """The result is laid out as queries are (flash_api.cpp, empty_like); the output projection wants tokens first."""
    result = flash(tape, query, key, value, shape, batch)
    return copy(tape, result) if joins_heads(shape, inputs.code) and batch.tokens > 1 else result


def _sdpa(
    tape: Tape, query: Tensor, key: Tensor, value: Tensor, shape: Attention, batch: Batch, inputs: LayerInputs
) -> Tensor:
    """sdpa_attention_forward, or falcon's own call, and the kernel that CUDA picks (sdp_utils.cpp)."""
    mask, equal_widths = inputs.mask, shape.head_dim == shape.v_head_dim
    half = DType.FP32 not in (autocast_dtype(tape, query), autocast_dtype(tape, value))
    flash_runs = mask is None and batch.flash_available and half and equal_widths
    flash_runs = flash_runs and shape.head_dim <= MAX_FLASH_HEAD_DIM
    times = group_size(query, key, shape, batch)
    if inputs.code.calls_sdpa:
        if times > 1:
            return math_attention(tape, query, key, value, shape, batch, mask)
    elif times > 1 and batch.tokens > 1 and not (flash_runs and batch.groups_heads):
        is_view = times == shape.num_attention_heads
        key = repeat(tape, key, times, is_view=is_view)
        value = repeat(tape, value, times, is_view=is_view)
    if flash_runs:
        return _flash(tape, query, key, value, shape, batch, inputs)
    if not batch.flash_available and autocast_dtype(tape, query) is DType.BF16:
        # The memory-efficient kernel has no bfloat16 below compute capability 8.0, as flash has none at all.
        return math_attention(tape, query, key, value, shape, batch, mask)
    return efficient(tape, query, key, value, shape, batch, mask)
