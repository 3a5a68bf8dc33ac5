"""Multi-head latent attention (DeepSeek): compressed keys and values are expanded for every head before attention.

Source: transformers 5.23.0 models/deepseek_v3/modeling_deepseek_v3.py, DeepseekV3Attention.
"""

from __future__ import annotations

from vramplan.core.model import Attention, LatentProjections
from vramplan.formula.batch import Batch, LayerInputs
from vramplan.formula.graph import Grads, apply
from vramplan.formula.kv_cache import update_cache
from vramplan.formula.linear import Weights, linear
from vramplan.formula.norms import normalise
from vramplan.formula.ops import cat, chunk
from vramplan.formula.rotary import rotate_complex, rotate_interleaved
from vramplan.formula.tape import Tape, Tensor


def latent_projections(
    tape: Tape,
    hidden: Tensor,
    shape: Attention,
    linears: dict[str, Weights],
    norms: dict[str, Tensor],
    batch: Batch,
    inputs: LayerInputs,
    caches: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
    """Queries, keys and values of every head.

    Args:
        tape: where it allocates.
        hidden: the normalised hidden states.
        shape: heads and widths.
        linears, norms: the modules by name.
        batch: rows, tokens, whether latents are cached.
        inputs: positions.
        caches: where the cached latents are kept.

    Returns:
        Queries, keys, values, and the local variables that live as long as they do.
    """
    projections = shape.projections
    assert isinstance(projections, LatentProjections)
    tokens, heads = batch.num_tokens, shape.num_attention_heads
    rope, nope = projections.qk_rope_head_dim, projections.qk_nope_head_dim
    states = _query(tape, hidden, projections, linears, norms)
    query_pass, query_rope = chunk(tape, states, (tokens * heads * nope, tokens * heads * rope))
    compressed = linear(tape, hidden, linears[projections.key_value_down.name])
    latent, key_rope = chunk(tape, compressed, (tokens * projections.kv_lora_rank, tokens * rope))
    norm = projections.key_value_norm
    latent = normalise(tape, latent, norms[norm.name], kind=norm.kind, size=norm.size)
    if inputs.code.rotates_complex:
        query_rope, key_rope = rotate_complex(tape, query_rope, key_rope, inputs)
    else:
        query_rope, key_rope = rotate_interleaved(tape, query_rope, inputs), rotate_interleaved(tape, key_rope, inputs)
    if batch.caches and batch.latent_cache:
        latent, key_rope = update_cache(tape, latent, key_rope, shape, batch, caches)
    query = cat(tape, [query_pass, query_rope])
    key, value = _expand(tape, latent, key_rope, shape, projections, linears)
    return query, key, value, (states, query_pass, query_rope, compressed, latent, key_rope)


def _query(
    tape: Tape, hidden: Tensor, projections: LatentProjections, linears: dict[str, Weights], norms: dict[str, Tensor]
) -> Tensor:
    if projections.query is not None:
        return linear(tape, hidden, linears[projections.query.name])
    assert projections.query_down is not None
    assert projections.query_norm is not None
    assert projections.query_up is not None
    query = linear(tape, hidden, linears[projections.query_down.name])
    norm = projections.query_norm
    query = normalise(tape, query, norms[norm.name], kind=norm.kind, size=norm.size)
    return linear(tape, query, linears[projections.query_up.name])


def _expand(
    tape: Tape,
    latent: Tensor,
    key_rope: Tensor,
    shape: Attention,
    projections: LatentProjections,
    linears: dict[str, Weights],
) -> tuple[Tensor, Tensor]:
    """`expand_kv`: keys are written into a new tensor in two copies, one of them from the key that all heads share."""
    tokens, heads = latent.numel // projections.kv_lora_rank, shape.num_attention_heads
    nope, rope = projections.qk_nope_head_dim, projections.qk_rope_head_dim
    expanded = linear(tape, latent, linears[projections.key_value_up.name])
    key_nope, value = chunk(tape, expanded, (tokens * heads * nope, tokens * heads * shape.v_head_dim))
    key_numel, dtype = tokens * heads * (nope + rope), expanded.dtype
    numels, own = (key_nope.numel, key_rope.numel), (key_nope.dtype, key_rope.dtype)

    def derivative(_grad: Tensor) -> Grads:
        # CopySlices: a clone of the whole gradient for each of the two parts written into the tensor.
        whole = tape.empty(key_numel, dtype)
        shared = tape.empty(numels[1], own[1])
        del whole
        second = tape.empty(key_numel, dtype)
        grads = (tape.empty(numels[0], own[0]), shared)
        del second
        return grads

    return apply(tape, key_numel, dtype, (key_nope, key_rope), (), derivative), value
