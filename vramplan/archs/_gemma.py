"""What gemma2 and gemma3 share: a sandwich of norms around each branch, sliding layers between full ones."""

from __future__ import annotations

from collections.abc import Callable

from vramplan.archs._attention import Heads, separate_attention
from vramplan.archs._config import ConfigReader
from vramplan.archs._decoder import norms
from vramplan.archs._mlp import gated_mlp
from vramplan.archs._windows import layer_windows
from vramplan.core.model import LayerShape, NormKind, ResidualStyle

_NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)


def sandwich_layers(
    config: ConfigReader,
    heads: Heads,
    *,
    window: int | None,
    slides: Callable[[int], bool],
    head_norm: NormKind | None = None,
    softcap: bool = False,
) -> tuple[LayerShape, ...]:
    """The decoder blocks.

    Args:
        config: the config.
        heads: the widths.
        window: of the layers that slide.
        slides: which do, where the config has no `layer_types`.
        head_norm: the norm on query and key heads, or None.
        softcap: whether attention logits pass through tanh.
    """
    bias = config.boolean("attention_bias", absent=False)
    mlp = gated_mlp(
        heads.hidden_size,
        config.required_int("intermediate_size"),
        activation=config.text("hidden_activation", absent="gelu_pytorch_tanh"),
    )
    windows = layer_windows(config, num_layers=config.layers("num_hidden_layers"), window=window, slides=slides)
    layers = {
        each: LayerShape(
            attention=separate_attention(
                config, heads, bias=bias, output_bias=bias, window=each, head_norm=head_norm, softcap=softcap
            ),
            mlp=mlp,
            norms=norms(heads.hidden_size, *_NORMS, kind=NormKind.RMS_GEMMA),
            residual=ResidualStyle.SANDWICH,
        )
        for each in set(windows)
    }
    return tuple(layers[each] for each in windows)
