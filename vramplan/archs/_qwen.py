"""What qwen2 and qwen3 share: which layers slide."""

from __future__ import annotations

from vramplan.archs._config import ConfigReader
from vramplan.archs._windows import layer_windows


def qwen_window(config: ConfigReader) -> int | None:
    """The window in tokens, or None: `sliding_window` counts only where `use_sliding_window` is on."""
    if not config.boolean("use_sliding_window", absent=False):
        return None
    return config.optional_int("sliding_window", absent=4096)


def qwen_windows(config: ConfigReader, num_layers: int) -> tuple[int | None, ...]:
    """Each layer's window: those from `max_window_layers` on slide (configuration_qwen2.py, transformers 5.23)."""
    first = config.integer("max_window_layers", absent=28, minimum=0)
    return layer_windows(config, num_layers=num_layers, window=qwen_window(config), slides=lambda index: index >= first)
