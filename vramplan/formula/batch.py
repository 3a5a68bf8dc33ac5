"""What a forward is given: its rows and tokens, and what the model hands on to every layer."""

from __future__ import annotations

from dataclasses import dataclass

from vramplan.core.run import AttentionImplementation
from vramplan.formula.code import Code
from vramplan.formula.tape import Tensor


@dataclass(slots=True, kw_only=True)
class Batch:
    """What every layer is given beside the hidden states.

    Args:
        rows: sequences in the forward.
        tokens: new tokens of each.
        past_tokens: tokens of each that are in the cache already.
        implementation: which attention code runs.
        flash_available: whether the GPU and the dtype allow flash attention inside sdpa (compute capability 8.0).
        caches: whether keys and values go to a cache.
        groups_heads: whether sdpa takes fewer key/value heads than query heads (`Stack.sdpa_groups_heads`).
        trains: whether dropout is on.
        latent_cache: whether DeepSeek's latents are cached, not expanded heads (`Stack.latent_cache_compressed`).
        sliding_cache: whether sliding-window layers cache their window only (`Stack.sliding_cache`).
        returns_keys: whether layers return their keys and values in training too (`Setting.checkpoints_return_keys`).
    """

    rows: int
    tokens: int
    implementation: AttentionImplementation
    past_tokens: int = 0
    flash_available: bool = True
    caches: bool = False
    groups_heads: bool = True
    trains: bool = False
    sliding_cache: bool = True
    latent_cache: bool = True
    returns_keys: bool = False

    @property
    def num_tokens(self) -> int:
        """New tokens of all rows."""
        return self.rows * self.tokens

    @property
    def key_tokens(self) -> int:
        """Tokens that a query of a layer without a window may see."""
        return self.past_tokens + self.tokens


@dataclass(slots=True, kw_only=True)
class LayerInputs:
    """What the model makes once for all layers of a kind, and hands to each.

    Args:
        code: what transformers' code of this architecture does.
        cosine, sine: of the rotated positions; None where positions are learned or added.
        mask: the attention mask: additive in eager attention, boolean in sdpa; None where the kernel needs none.
    """

    code: Code
    cosine: Tensor | None = None
    sine: Tensor | None = None
    mask: Tensor | None = None
