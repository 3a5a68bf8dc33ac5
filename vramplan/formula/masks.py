"""Positions and attention masks: what the model makes once, before its first layer.

Sources: transformers 5.23.0 masking_utils.py (sdpa_mask, eager_mask, _ignore_causal_mask_sdpa) and
models/*/modeling_*.py.
"""

from __future__ import annotations

from vramplan.core.model import Attention, ModelShape
from vramplan.core.run import AttentionImplementation
from vramplan.dtypes import DType
from vramplan.formula.batch import Batch, LayerInputs
from vramplan.formula.code import Code, code_of
from vramplan.formula.kv_cache import seen_tokens
from vramplan.formula.tape import Tape, Tensor

Kind = tuple[int | None, int]
"""Layers with one sliding window and one rotated width share what the model makes for them."""


def kind_of(attention: Attention) -> Kind:
    """What a layer's mask and angles depend on."""
    return attention.sliding_window, attention.rotary_dim


def layer_inputs(tape: Tape, model: ModelShape, batch: Batch, dtype: DType) -> dict[Kind, LayerInputs]:
    """What each kind of layer is handed, masks first.

    Args:
        tape: where it allocates.
        model: its layers.
        batch: rows, tokens, which attention runs.
        dtype: of the embedded tokens.
    """
    code = code_of(model.model_type)
    kinds = {kind_of(layer.attention): layer.attention for layer, _ in model.layer_groups()}
    masks: dict[int | None, Tensor | None] = {}
    with tape.owner("attention"):
        for (window, _), attention in kinds.items():
            if window not in masks:
                masks[window] = _mask(tape, attention, batch, dtype, code)
    angles: dict[int | None, tuple[Tensor, Tensor] | None] = {}
    inputs: dict[Kind, LayerInputs] = {}
    for kind, attention in kinds.items():
        which = kind[0] if code.rotary_by_window else None
        if which not in angles:
            angles[which] = _angles(tape, attention, batch, dtype, code)
        pair = angles[which]
        inputs[kind] = LayerInputs(
            code=code,
            cosine=None if pair is None else pair[0],
            sine=None if pair is None else pair[1],
            mask=masks[kind[0]],
        )
    return inputs


def _angles(tape: Tape, attention: Attention, batch: Batch, dtype: DType, code: Code) -> tuple[Tensor, Tensor] | None:
    """cos and sin of every new position, computed in fp32 and cast."""
    if not attention.rotary_dim:
        return None
    numel = batch.tokens * int(attention.rotary_dim * code.rotary_ratio)
    return tape.empty(numel, dtype), tape.empty(numel, dtype)


def _mask(tape: Tape, attention: Attention, batch: Batch, dtype: DType, code: Code) -> Tensor | None:
    keys = seen_tokens(attention, batch)
    numel = batch.rows * batch.tokens * keys
    if attention.alibi:
        return tape.empty(numel * attention.num_attention_heads, dtype)
    if batch.implementation is AttentionImplementation.EAGER:
        allowed = tape.empty(numel, DType.BOOL)
        mask = tape.empty(numel, dtype)
        del allowed
        return mask
    if batch.implementation is AttentionImplementation.FLASH_ATTENTION_2:
        return None
    window = attention.sliding_window
    if code.always_masks or (window is not None and keys >= window):
        return tape.empty(numel, DType.BOOL)
    return None
