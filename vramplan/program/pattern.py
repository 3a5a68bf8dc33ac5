"""How a model's layers repeat, read from its config: what a trace of few layers has to contain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vramplan.program.extend import NUM_TRACED_UNITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """A prefix, a period that repeats, and what is left of it at the end.

    Args:
        prefix: layers before the repetition (DeepSeek's dense ones).
        period: layers after which kinds repeat.
        num_units: how often the period fits; prefix and rest count with the first and the last.
        rest: layers of a last, incomplete period.
    """

    prefix: int
    period: int
    num_units: int
    rest: int

    @property
    def num_traced_layers(self) -> int:
        """Layers of the short trace."""
        return self.prefix + NUM_TRACED_UNITS * self.period + self.rest

    @property
    def unit_of_layer(self) -> dict[int, int]:
        """Unit of each layer of the short trace."""
        last = NUM_TRACED_UNITS - 1
        return {
            layer: min(max((layer - self.prefix) // self.period, 0), last) for layer in range(self.num_traced_layers)
        }


def find_pattern(config: Any) -> Pattern | None:
    """The shortest pattern of a transformers config's layers, or None where tracing all of them is as short."""
    kinds = _kinds(config)
    count = len(kinds)
    candidates = [
        Pattern(prefix=prefix, period=period, num_units=(count - prefix) // period, rest=(count - prefix) % period)
        for prefix in range(count // 2)
        for period in range(1, (count - prefix) // (NUM_TRACED_UNITS + 1) + 1)
        if all(kinds[layer] == kinds[layer + period] for layer in range(prefix, count - period))
    ]
    return min(candidates, key=lambda pattern: pattern.num_traced_layers, default=None)


def _kinds(config: Any) -> list[tuple[Any, ...]]:
    count = config.num_hidden_layers
    lists = [value for value in vars(config).values() if isinstance(value, list) and len(value) == count]
    dense = int(getattr(config, "first_k_dense_replace", 0) or 0)
    sparse_step = int(getattr(config, "decoder_sparse_step", 1) or 1)
    only_dense = set(getattr(config, "mlp_only_layers", None) or ())
    return [
        (layer < dense, (layer + 1) % sparse_step == 0, layer in only_dense, *(repr(value[layer]) for value in lists))
        for layer in range(count)
    ]
