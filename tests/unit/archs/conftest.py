"""transformers itself, on the meta device, as the oracle of the archs tests."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from vramplan.core.model import ModelShape

# A parameter's name inside its block, its shape, and how often it occurs.
Weights = Counter[tuple[str, tuple[int, ...]]]

# The path of a decoder block in any of these models: `model.layers.3.` or `transformer.h.3.`.
_BLOCK = re.compile(r"^.*?\.(?:layers|h)\.\d+\.")
_ATTENTIONS = ("self_attn", "attn", "attention", "self_attention")

# Where the attention module keeps no copy of the window, but takes it from the config (modeling_*.py, 5.23).
_WINDOW_FROM_CONFIG = ("mistral", "mixtral", "phi3", "starcoder2")


class MetaModel:
    """A transformers model without memory, asked for what a ModelShape says."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.config = model.config

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def weights(self) -> Weights:
        named = self.model.named_parameters()
        return Counter((_BLOCK.sub("", name), tuple(parameter.shape)) for name, parameter in named)

    @property
    def windows(self) -> list[int | None]:
        """Each layer's sliding window in tokens."""
        whole = self.config.sliding_window if self.config.model_type in _WINDOW_FROM_CONFIG else None
        modules = self.model.named_modules()
        attentions = [module for name, module in modules if _BLOCK.sub("", name) in _ATTENTIONS]
        return [getattr(attention, "sliding_window", whole) for attention in attentions]

    @property
    def rotary_dim(self) -> int:
        """How much of a head is rotated, by the table of frequencies."""
        tables = [buffer for name, buffer in self.model.named_buffers() if name.endswith("inv_freq")]
        return max((2 * table.numel() for table in tables), default=0)

    @property
    def buffer_bytes(self) -> int:
        """Tables that are no parameters; loading keeps routing corrections in fp32 whatever the model's dtype."""
        small = ("inv_freq", "embed_scale")
        tables = [(name, table) for name, table in self.model.named_buffers() if not name.endswith(small)]
        return sum(t.numel() * (4 if "e_score_correction" in name else t.element_size()) for name, t in tables)

    @property
    def converted(self) -> Counter[str]:
        """The modules that loading in 8 bits replaces, by bitsandbytes' and transformers' own code."""
        pytest.importorskip("bitsandbytes")
        from transformers import BitsAndBytesConfig
        from transformers.integrations.bitsandbytes import replace_with_bnb_linear
        from transformers.quantizers.base import get_keys_to_not_convert

        kept = get_keys_to_not_convert(self.model)
        replaced = replace_with_bnb_linear(self.model, kept, BitsAndBytesConfig(load_in_8bit=True))
        modules = replaced.named_modules()
        return Counter(_BLOCK.sub("", name) for name, module in modules if type(module).__name__ == "Linear8bitLt")


class Oracle:
    """What transformers builds from a config, and what this package reads from it, in the same words."""

    def __init__(self, torch: Any, transformers: Any, no_init_weights: Any) -> None:
        self._torch, self._transformers, self._no_init_weights = torch, transformers, no_init_weights

    def build(self, config: Mapping[str, object]) -> MetaModel:
        fields = {name: value for name, value in config.items() if name not in ("model_type", "quantization_config")}
        parsed = self._transformers.AutoConfig.for_model(config["model_type"], **fields)
        with self._torch.device("meta"), self._no_init_weights():
            model = self._transformers.AutoModelForCausalLM.from_config(parsed)
        model.tie_weights()
        return MetaModel(model)

    @staticmethod
    def weights(shape: ModelShape) -> Weights:
        found: Weights = Counter()
        for weight in shape.weights(fused_experts=True):
            found[(f"{weight.module}.{weight.name}", weight.shape)] += weight.count
        return found


@pytest.fixture(scope="session")
def oracle() -> Oracle:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers", minversion="5.23")
    from transformers.initialization import no_init_weights

    return Oracle(torch, transformers, no_init_weights)
