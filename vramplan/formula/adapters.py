"""LoRA adapters: which modules they are aimed at, and what they take.

Source: peft 0.21.2 tuners/tuners_utils.py check_target_module_exists (a module matches by its full name or by what
follows a dot) and _maybe_include_all_linear_layers (`all-linear`: every linear but the output head).
"""

from __future__ import annotations

from vramplan.core.model import Linear, ModelShape, ModuleKind
from vramplan.core.run import Lora

ALL_LINEAR = "all-linear"
ADAPTABLE_KINDS = frozenset({ModuleKind.LINEAR, ModuleKind.LINEAR_SUBCLASS, ModuleKind.CONV1D})


DEFAULT_TARGETS = {
    **dict.fromkeys(
        ("llama", "mistral", "mixtral", "gemma", "gemma2", "gemma3_text", "qwen2", "qwen3", "opt"), ("q_proj", "v_proj")
    ),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), ("c_attn",)),
    **dict.fromkeys(("gpt_neox", "falcon"), ("query_key_value",)),
    "phi": ("q_proj", "v_proj", "fc1", "fc2"),
}
"""peft 0.21.2 utils/constants.py TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING: its choice when told nothing."""


def is_target(name: str, kind: ModuleKind, lora: Lora) -> bool:
    """Whether peft puts an adapter on the module `name`."""
    if ALL_LINEAR in lora.target_modules:
        return kind in ADAPTABLE_KINDS
    if kind not in ADAPTABLE_KINDS and kind is not ModuleKind.HEAD:
        return False
    return any(name == target or name.endswith(f".{target}") for target in lora.target_modules)


def adapted(model: ModelShape, lora: Lora) -> tuple[tuple[Linear, int], ...]:
    """The linear layers that get an adapter, with how often each occurs."""
    layers = tuple((linear, count) for linear, count in model.linears() if is_target(linear.name, linear.kind, lora))
    return layers + (((model.head, 1),) if is_target(model.head.name, model.head.kind, lora) else ())


def adapter_shapes(model: ModelShape, lora: Lora) -> tuple[tuple[tuple[int, int], int], ...]:
    """(shape, count) of each adapter matrix: r × in and out × r."""
    shapes: list[tuple[tuple[int, int], int]] = []
    for linear, count in adapted(model, lora):
        shapes += [((lora.r, linear.in_features), count), ((linear.out_features, lora.r), count)]
    return tuple(shapes)
