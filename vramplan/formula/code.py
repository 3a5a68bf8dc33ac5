"""What transformers' code of an architecture does to memory that its shapes do not tell.

Source: transformers 5.23.0 models/*/modeling_*.py.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Softmax(str, Enum):
    """How eager attention takes the softmax of its scores."""

    FP32 = "fp32"  # softmax(scores, dtype=torch.float32).to(query.dtype)
    NATIVE = "native"  # softmax(scores): gpt2, gpt_oss
    OF_HIDDEN = "of_hidden"  # softmax(scores, dtype=hidden_states.dtype): falcon


class Split(str, Enum):
    """How the result of a fused query/key/value projection is cut."""

    CHUNK = "chunk"  # .split() or .chunk() along features: one node for all views
    SLICES = "slices"  # states[..., a:b]: a view and a node for each (phi3)
    FALCON = "falcon"  # by heads, see vramplan.formula.falcon


class Router(str, Enum):
    """How a mixture of experts chooses."""

    SOFTMAX = "softmax"  # fp32 probabilities, kept in fp32: mixtral
    SOFTMAX_CAST = "softmax_cast"  # cast back to the dtype of the logits: qwen3_moe
    SOFTMAX_OF_FP32 = "softmax_of_fp32"  # of logits computed in fp32, not divided by their sum: deepseek_v2
    SIGMOID = "sigmoid"  # of logits computed in fp32: deepseek_v3
    TOP_K = "top_k"  # softmax of the largest logits: gpt_oss


class Code(NamedTuple):
    """Habits of one architecture's modules.

    Args:
        softmax: of eager attention.
        split: of a fused projection.
        norms_after_projections: query and key heads are normalised once all three projections are made (gemma3).
        scales_query: queries are multiplied by the scale before attention (opt), not the scores after it.
        rotary_by_window: sliding and full layers rotate by angles of their own (gemma3).
        rotary_ratio: features of cos and sin for each rotated one: gpt_oss keeps half.
        slices_rotary: heads are cut into a rotated part and the rest, and joined again, even where all of it rotates.
        keeps_rotary_parts: what rotates and what does not are names of the attention module, and live until it returns.
        rotates_halves: the two halves of a head are rotated apart and concatenated (gpt_oss).
        rotates_complex: pairs of features are rotated as complex numbers of two fp32 (deepseek_v2).
        always_masks: the causal mask is made where sdpa could do without (falcon).
        calls_sdpa: the module calls sdpa itself, without grouped heads (falcon).
        scales_in_embedding: the embedding module scales its result itself (gemma), before anything hooks onto it.
        positions_per_row: learned positions are looked up for each row (opt), not once.
        router: of a mixture of experts.
        inlines_mlp: the layer runs the feed-forward itself, over one name (opt).
        keeps_branch: the attention's output has a name of its own in the layer, and lives until the layer returns.
        own_loss: the model took its loss itself, of the logits as the head made them (`Stack.every_loss_upcasts`).
        lacks_cache_guard: nothing sets use_cache to False under checkpointing (`Stack.checkpoints_return_keys`).
        returns_weights: a layer returns its attention weights too, and they live until the next layer has returned.
    """

    softmax: Softmax = Softmax.FP32
    split: Split = Split.CHUNK
    norms_after_projections: bool = False
    scales_query: bool = False
    rotary_by_window: bool = False
    rotary_ratio: float = 1.0
    slices_rotary: bool = False
    keeps_rotary_parts: bool = False
    rotates_halves: bool = False
    rotates_complex: bool = False
    always_masks: bool = False
    calls_sdpa: bool = False
    scales_in_embedding: bool = False
    positions_per_row: bool = False
    router: Router = Router.SOFTMAX
    inlines_mlp: bool = False
    keeps_branch: bool = False
    own_loss: bool = False
    lacks_cache_guard: bool = False
    returns_weights: bool = False


_CODES = {
    "falcon": Code(
        softmax=Softmax.OF_HIDDEN,
        split=Split.FALCON,
        always_masks=True,
        calls_sdpa=True,
        own_loss=True,
        returns_weights=True,
    ),
    "gemma": Code(scales_in_embedding=True),
    "gemma2": Code(scales_in_embedding=True),
    "gemma3_text": Code(rotary_by_window=True, norms_after_projections=True, scales_in_embedding=True),
    "deepseek_v2": Code(router=Router.SOFTMAX_OF_FP32, rotates_complex=True),
    "deepseek_v3": Code(router=Router.SIGMOID),
    "gpt2": Code(softmax=Softmax.NATIVE, keeps_branch=True, own_loss=True),
    "gpt_bigcode": Code(keeps_branch=True, own_loss=True, lacks_cache_guard=True),
    "gpt_neox": Code(own_loss=True),
    "gpt_oss": Code(softmax=Softmax.NATIVE, rotary_ratio=0.5, rotates_halves=True, router=Router.TOP_K),
    "qwen3_moe": Code(router=Router.SOFTMAX_CAST),
    "opt": Code(scales_query=True, positions_per_row=True, inlines_mlp=True, own_loss=True),
    "phi": Code(keeps_rotary_parts=True),
    "phi3": Code(split=Split.SLICES, slices_rotary=True),
}
_USUAL = Code()


def code_of(model_type: str) -> Code:
    """The habits of an architecture; llama's where nothing else is known of it."""
    return _CODES.get(model_type, _USUAL)
