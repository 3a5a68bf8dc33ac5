"""Which layers see all tokens before them and which only a sliding window."""

from __future__ import annotations

from collections.abc import Callable

from vramplan.archs._config import ConfigReader

_FULL = ("full_attention", "attention")  # `attention` is the older name (configuration_utils.py, transformers 5.23)
_SLIDING = "sliding_attention"


def layer_windows(
    config: ConfigReader, *, num_layers: int, window: int | None, slides: Callable[[int], bool]
) -> tuple[int | None, ...]:
    """The sliding window of each layer in tokens, or None where it sees all.

    Args:
        config: its `layer_types`, where present, decide.
        num_layers: decoder blocks.
        window: the window of those layers that slide.
        slides: by the layer's index from 0, whether it slides where the config has no `layer_types`.

    Raises:
        UnsupportedArchitectureError: a layer type that is not attention over all or over a window.
    """
    types = config.texts("layer_types")
    if types is None:
        return tuple(window if slides(index) else None for index in range(num_layers))
    if len(types) != num_layers:
        raise config.error(f"`layer_types` names {len(types)} layers of {num_layers}")
    for layer_type in set(types):
        if layer_type not in (*_FULL, _SLIDING):
            raise config.error(f"`layer_types` has {layer_type!r}, which a {config.model_type} model does not know")
    return tuple(window if layer_type == _SLIDING else None for layer_type in types)
