"""Self-attention: projections, rotary positions, and the three implementations with what each keeps.

Sources: transformers 5.23 models/*/modeling_*.py and integrations/sdpa_attention.py (what is copied, which local
variables stay alive through the output projection); ATen/native/transformers/cuda/attention.cu and attention_backward.cu
(flash keeps q, k, v, its result and an fp32 log-sum-exp; its backward accumulates dq in fp32).
"""

from __future__ import annotations

from dataclasses import dataclass

from vramplan.core.model import Attention, FusedProjection, LatentProjections, NormKind
from vramplan.core.run import AttentionImplementation
from vramplan.dtypes import DType
from vramplan.formula.linear import Weights, linear, matmul
from vramplan.formula.norms import normalise
from vramplan.formula.ops import add, cat, chunk, copy, dropout, mul, narrow, promote, scale, to, to_autocast, unary
from vramplan.formula.tape import Grads, Tape, Tensor, apply


@dataclass(slots=True, kw_only=True)
class Batch:
    """What every layer is given beside the hidden states.

    Args:
        rows: sequences in the forward.
        tokens: new tokens of each.
        past_tokens: tokens of each that are in the cache already.
        rotary: cos and sin, together, in the dtype that rotates; None where positions are learned.
        mask: the additive attention mask of eager attention, or None.
        implementation: which attention code runs.
        flash_available: whether the GPU and the dtype allow flash attention inside sdpa (compute capability 8.0).
        caches: whether keys and values go to a cache.
        groups_heads: whether sdpa takes fewer key/value heads than query heads (`Stack.sdpa_groups_heads`).
        trains: whether dropout is on.
        latent_cache: whether DeepSeek's latents are cached, not expanded heads (`Stack.latent_cache_compressed`).
        sliding_cache: whether sliding-window layers cache their window only (`Stack.sliding_cache`).
    """

    rows: int
    tokens: int
    implementation: AttentionImplementation
    past_tokens: int = 0
    rotary: Tensor | None = None
    mask: Tensor | None = None
    flash_available: bool = True
    caches: bool = False
    groups_heads: bool = True
    trains: bool = False
    sliding_cache: bool = True
    latent_cache: bool = True

    def release(self) -> None:
        """Drop positions and mask, as the model does when nothing refers to them any more."""
        self.rotary = self.mask = None

    @property
    def num_tokens(self) -> int:
        """New tokens of all rows."""
        return self.rows * self.tokens

    @property
    def key_tokens(self) -> int:
        """Tokens that a query may see."""
        return self.past_tokens + self.tokens


@dataclass(slots=True, kw_only=True)
class AttentionWeights:
    """The modules of one attention block, by the names of `vramplan.core.model`."""

    linears: dict[str, Weights]
    norms: dict[str, Tensor]


def attention(
    tape: Tape, hidden: Tensor, shape: Attention, weights: AttentionWeights, batch: Batch, caches: list[Tensor]
) -> tuple[Tensor, Tensor | None]:
    """`self_attn(hidden)`.

    Args:
        tape: where it allocates.
        hidden: the normalised hidden states.
        shape: heads and widths.
        weights: the modules.
        batch: rows, tokens, positions, mask.
        caches: where new cache tensors are kept.

    Returns:
        The output and the attention weights, which eager attention hands to the decoder layer.
    """
    query, key, value = _projections(tape, hidden, shape, weights, batch, caches)
    if batch.rotary is not None and shape.rotary_dim and not isinstance(shape.projections, LatentProjections):
        query, key = rotate(tape, query, key, shape, batch.rotary)
    if batch.caches and not (isinstance(shape.projections, LatentProjections) and batch.latent_cache):
        key, value = _update_cache(tape, key, value, shape, batch, caches)
    weighted, probabilities = _attend(tape, query, key, value, shape, batch)
    result = linear(tape, weighted, weights.linears[shape.output.name])
    return result, probabilities


def _update_cache(
    tape: Tape, key: Tensor, value: Tensor, shape: Attention, batch: Batch, caches: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """DynamicCache.update: `torch.cat` with what is there, which is freed only once the longer one exists.

    A sliding-window layer keeps its window less one token, and attends to that and the new ones.
    """
    past = cached_tokens(shape, batch.past_tokens, sliding=batch.sliding_cache)
    updated = []
    with tape.owner("kv_cache"):
        for index, new in enumerate((key, value)):
            longer = tape.empty(new.numel // batch.tokens * (past + batch.tokens), new.dtype)
            updated.append(longer)
            if len(caches) > index:
                caches[index] = longer
            else:
                caches.append(longer)
    return updated[0], updated[1]


def cache_elements(shape: Attention, batch: Batch) -> tuple[int, int]:
    """Elements of a layer's key and value cache after `batch.past_tokens` of each row."""
    tokens = batch.rows * cached_tokens(shape, batch.past_tokens, sliding=batch.sliding_cache)
    projections = shape.projections
    if isinstance(projections, LatentProjections) and batch.latent_cache:
        return tokens * projections.kv_lora_rank, tokens * projections.qk_rope_head_dim
    heads = shape.num_key_value_heads
    return tokens * heads * shape.head_dim, tokens * heads * shape.v_head_dim


def cached_tokens(shape: Attention, tokens: int, *, sliding: bool) -> int:
    """Tokens of one row that a layer's cache holds after `tokens` have passed (transformers cache_utils.py)."""
    if sliding and shape.sliding_window is not None:
        return min(tokens, shape.sliding_window - 1)
    return tokens


def _projections(
    tape: Tape, hidden: Tensor, shape: Attention, weights: AttentionWeights, batch: Batch, caches: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, normalised per head where the architecture does."""
    projections = shape.projections
    if isinstance(projections, LatentProjections):
        return _latent(tape, hidden, shape, projections, weights, batch, caches)
    query_numel = batch.num_tokens * shape.num_attention_heads * shape.head_dim
    key_numel = batch.num_tokens * shape.num_key_value_heads * shape.head_dim
    if isinstance(projections, FusedProjection):
        fused = linear(tape, hidden, weights.linears[projections.query_key_value.name])
        query, key, value = chunk(tape, fused, (query_numel, key_numel, key_numel))
        return query, key, value
    query = linear(tape, hidden, weights.linears[projections.query.name])
    if shape.query_norm is not None:
        query = _head_norm(tape, query, weights, shape.query_norm.name, shape.query_norm.kind, shape.query_norm.size)
    key = linear(tape, hidden, weights.linears[projections.key.name])
    if shape.key_norm is not None:
        key = _head_norm(tape, key, weights, shape.key_norm.name, shape.key_norm.kind, shape.key_norm.size)
    return query, key, linear(tape, hidden, weights.linears[projections.value.name])


def _head_norm(tape: Tape, states: Tensor, weights: AttentionWeights, name: str, kind: NormKind, size: int) -> Tensor:
    return normalise(tape, states, weights.norms[name], kind=kind, size=size)


def _latent(
    tape: Tape,
    hidden: Tensor,
    shape: Attention,
    projections: LatentProjections,
    weights: AttentionWeights,
    batch: Batch,
    caches: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Multi-head latent attention: compressed keys and values are expanded for every head before attention."""
    linears, tokens, heads = weights.linears, batch.num_tokens, shape.num_attention_heads
    rope, nope = projections.qk_rope_head_dim, projections.qk_nope_head_dim
    if projections.query is not None:
        query = linear(tape, hidden, linears[projections.query.name])
    else:
        assert projections.query_down is not None
        assert projections.query_norm is not None
        assert projections.query_up is not None
        query = linear(tape, hidden, linears[projections.query_down.name])
        norm = projections.query_norm
        query = _head_norm(tape, query, weights, norm.name, norm.kind, norm.size)
        query = linear(tape, query, linears[projections.query_up.name])
    query_pass, query_rope = chunk(tape, query, (tokens * heads * nope, tokens * heads * rope))
    compressed = linear(tape, hidden, linears[projections.key_value_down.name])
    latent, key_rope = chunk(tape, compressed, (tokens * projections.kv_lora_rank, tokens * rope))
    norm = projections.key_value_norm
    latent = _head_norm(tape, latent, weights, norm.name, norm.kind, norm.size)
    if batch.rotary is not None:
        query_rope, key_rope = rotate(tape, query_rope, key_rope, shape, batch.rotary, interleaved=True)
    if batch.caches and batch.latent_cache:
        latent, key_rope = _update_cache(tape, latent, key_rope, shape, batch, caches)
        tokens = latent.numel // projections.kv_lora_rank
    query = cat(tape, [query_pass, query_rope])
    expanded = linear(tape, latent, linears[projections.key_value_up.name])
    key_nope, value = chunk(tape, expanded, (tokens * heads * nope, tokens * heads * shape.v_head_dim))
    key = cat(tape, [key_nope, Tensor(key_rope.storage, tokens * heads * rope, key_rope.dtype, key_rope.node)])
    return query, key, value


def rotate(
    tape: Tape, query: Tensor, key: Tensor, shape: Attention, rotary: Tensor, *, interleaved: bool = False
) -> tuple[Tensor, Tensor]:
    """`apply_rotary_pos_emb`: `x * cos + rotate_half(x) * sin`, for a part of each head where only a part rotates."""
    rotated = []
    for states in (query, key):
        partial = shape.rotary_dim < shape.head_dim and not interleaved
        if not partial:
            rotated.append(_rotate(tape, states, rotary, interleaved=interleaved))
            continue
        numel = states.numel // shape.head_dim * shape.rotary_dim
        part, rest = narrow(tape, states, numel), narrow(tape, states, states.numel - numel)
        rotated.append(cat(tape, [_rotate(tape, part, rotary), rest]))
        del part, rest
    return rotated[0], rotated[1]


def _rotate(tape: Tape, states: Tensor, rotary: Tensor, *, interleaved: bool = False) -> Tensor:
    if interleaved:
        states = copy(tape, states)
    cosine = Tensor(None, 1, rotary.dtype)
    straight = mul(tape, states, cosine)
    half = states.numel // 2
    first, second = narrow(tape, states, half), narrow(tape, states, states.numel - half)
    negated = scale(tape, second)
    del second
    turned = cat(tape, [negated, first])
    del negated, first
    turned = mul(tape, turned, cosine)
    return add(tape, straight, turned)


def _repeat(tape: Tape, states: Tensor, times: int) -> Tensor:
    """`repeat_kv`: an expanded view made contiguous; its derivative sums the groups."""
    if times == 1:
        return states
    numel, dtype = states.numel, states.dtype
    return apply(tape, numel * times, dtype, (states,), (), lambda _grad: (tape.empty(numel, dtype),))


def _attend(
    tape: Tape, query: Tensor, key: Tensor, value: Tensor, shape: Attention, batch: Batch
) -> tuple[Tensor, Tensor | None]:
    times = shape.num_attention_heads // shape.num_key_value_heads
    if isinstance(shape.projections, LatentProjections):
        times = 1
    if batch.implementation is AttentionImplementation.EAGER:
        return _eager(tape, query, _repeat(tape, key, times), _repeat(tape, value, times), shape, batch)
    if batch.implementation is AttentionImplementation.FLASH_ATTENTION_2 or batch.flash_available:
        if batch.implementation is AttentionImplementation.SDPA and not batch.groups_heads:
            key, value = _repeat(tape, key, times), _repeat(tape, value, times)
        return _flash(tape, query, key, value, shape, batch), None
    return _efficient(tape, query, _repeat(tape, key, times), _repeat(tape, value, times), shape, batch), None


def _eager(
    tape: Tape, query: Tensor, key: Tensor, value: Tensor, shape: Attention, batch: Batch
) -> tuple[Tensor, Tensor]:
    """`eager_attention_forward`: two products with a matrix of tokens × tokens for every head between them."""
    scores_numel = batch.rows * shape.num_attention_heads * batch.tokens * batch.key_tokens
    query_dtype = query.dtype
    with tape.owner("attention"):
        left = _as_batch(tape, query, batch, contiguous=False)
        right = _as_batch(tape, key, batch, contiguous=shape.num_attention_heads != shape.num_key_value_heads)
        scores = _product(tape, left, right, scores_numel)
        del left, right
        scores = scale(tape, scores)
        if shape.softcap:
            scores = scale(tape, unary(tape, scale(tape, scores), saves="result"))
        if batch.mask is not None:
            scores = add(tape, scores, batch.mask)
        probabilities = to(tape, _softmax_fp32(tape, scores), query_dtype)
        del scores
        if shape.dropout and batch.trains:
            probabilities = dropout(tape, probabilities)
        right = _as_batch(tape, value, batch, contiguous=shape.num_attention_heads != shape.num_key_value_heads)
        weighted_numel = batch.num_tokens * shape.num_attention_heads * shape.v_head_dim
        weighted = _product(tape, probabilities, right, weighted_numel)
        del right
        return copy(tape, weighted), probabilities


def _as_batch(tape: Tape, states: Tensor, batch: Batch, *, contiguous: bool) -> Tensor:
    """The operand of a batched product: cast under autocast, and copied where heads × rows are not one stride apart."""
    states = to_autocast(tape, states)
    return states if contiguous or batch.rows == 1 else copy(tape, states)


def _product(tape: Tape, left: Tensor, right: Tensor, numel: int) -> Tensor:
    return matmul(tape, left, right, numel)


def _softmax_fp32(tape: Tape, scores: Tensor) -> Tensor:
    """`softmax(scores, dtype=torch.float32)`: CUDA has one kernel from fp16 to fp32; bf16 is cast first (SoftMax.cpp).

    Its derivative makes a product of gradient and result first (cuda/SoftMax.cu, softmax_backward_cuda_out).
    """
    if scores.dtype is not DType.FP16:
        return unary(tape, to(tape, scores, DType.FP32), saves="result", temporaries=1)
    numel = scores.numel

    def derivative(_grad: Tensor) -> Grads:
        product = tape.empty(numel, DType.FP32)
        result = tape.empty(numel, DType.FP16)
        del product
        return (result,)

    return apply(tape, numel, DType.FP32, (scores,), (), derivative, saves_result=True)


def _flash(tape: Tape, query: Tensor, key: Tensor, value: Tensor, shape: Attention, batch: Batch) -> Tensor:
    """Flash attention, in sdpa or from the flash-attn package: nothing of tokens × tokens is kept."""
    query, key, value = _half(tape, query), _half(tape, key), _half(tape, value)
    heads, dtype = shape.num_attention_heads, query.dtype
    numels = (query.numel, key.numel, value.numel)
    key_heads = key.numel // (batch.rows * batch.key_tokens * shape.head_dim)
    result_numel = batch.num_tokens * heads * shape.v_head_dim
    padded_tokens = -(-batch.tokens // 128) * 128
    padded_dim = -(-shape.head_dim // 32) * 32
    accumulator_numel = batch.rows * padded_tokens * heads * padded_dim

    def derivative(_grad: Tensor) -> Grads:
        grads = [tape.empty(numels[0], dtype)]
        expanded = heads if key_heads != heads else key_heads
        wide = [tape.empty(numel // key_heads * expanded, dtype) for numel in numels[1:]]
        sums = tape.empty(batch.rows * heads * padded_tokens, DType.FP32)
        accumulator = tape.empty(accumulator_numel, DType.FP32)
        if expanded != key_heads:
            narrow_grads = [tape.empty(numel, dtype) for numel in numels[1:]]
        else:
            narrow_grads = wide
        del sums, accumulator, wide
        return grads + narrow_grads

    with tape.owner("attention"):
        result = apply(
            tape, result_numel, dtype, (query, key, value), (query, key, value), derivative, saves_result=True
        )
        log_sum_exp = tape.empty(batch.rows * heads * batch.tokens, DType.FP32)
        if result.node is not None:
            result.node.save(tape, log_sum_exp)
    return result


def _half(tape: Tape, states: Tensor) -> Tensor:
    """sdpa runs in the autocast dtype; the flash-attn package in 16 bits at any rate."""
    return to_autocast(tape, states)


def _efficient(tape: Tape, query: Tensor, key: Tensor, value: Tensor, shape: Attention, batch: Batch) -> Tensor:
    """The memory-efficient kernel of sdpa, where flash cannot run (before compute capability 8.0, or in fp32)."""
    query, key, value = to_autocast(tape, query), to_autocast(tape, key), to_autocast(tape, value)
    dtype = promote(query.dtype, value.dtype)
    numels = (query.numel, key.numel, value.numel)
    rows = batch.rows * shape.num_attention_heads
    padded_tokens = -(-batch.tokens // 32) * 32

    def derivative(_grad: Tensor) -> Grads:
        delta = tape.empty(rows * padded_tokens, DType.FP32)
        grads = [tape.empty(numel, dtype) for numel in numels]
        accumulator = None
        if dtype is not DType.FP32:
            accumulator = tape.empty(numels[0], DType.FP32)
        del delta, accumulator
        return grads

    with tape.owner("attention"):
        result = apply(
            tape,
            batch.num_tokens * shape.num_attention_heads * shape.v_head_dim,
            dtype,
            (query, key, value),
            (query, key, value),
            derivative,
            saves_result=True,
        )
        log_sum_exp = tape.empty(rows * padded_tokens, DType.FP32)
        if result.node is not None:
            result.node.save(tape, log_sum_exp)
    return result
