"""LoRA adapters: what they are aimed at, and what they take.

Sources: peft 0.21.2 tuners/tuners_utils.py check_target_module_exists (a module matches by its full name or by what
follows a dot) and _maybe_include_all_linear_layers (`all-linear`: every linear but the output head);
utils/transformers_weight_conversion.py _convert_peft_config_moe (what the names of a mixture's projections become where
its experts are fused) and tuners/lora/layer.py ParamWrapper (the adapter of a parameter).
"""

from __future__ import annotations

from collections.abc import Iterator

from vramplan.core.model import LayerShape, Linear, MixtureOfExperts, ModelShape, ModuleKind, layer_linears
from vramplan.core.quick import dataclass
from vramplan.core.run import Lora
from vramplan.core.stack import Stack
from vramplan.errors import UsageError

ALL_LINEAR = "all-linear"
ADAPTABLE_KINDS = frozenset({ModuleKind.LINEAR, ModuleKind.LINEAR_SUBCLASS, ModuleKind.CONV1D})
OLD_ROUTER_NAME = "gate"
"""transformers 4's name of the router, in every mixture that peft converts (_MOE_TARGET_MODULE_MAPPING)."""


DEFAULT_TARGETS = {
    **dict.fromkeys(
        ("llama", "mistral", "mixtral", "gemma", "gemma2", "gemma3_text", "qwen2", "qwen3", "opt"), ("q_proj", "v_proj")
    ),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), ("c_attn",)),
    **dict.fromkeys(("gpt_neox", "falcon"), ("query_key_value",)),
    "phi": ("q_proj", "v_proj", "fc1", "fc2"),
}
"""peft 0.21.2 utils/constants.py TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING: its choice when told nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """What one LoRA configuration adapts in one model.

    Args:
        names: what the modules' names end with.
        every_linear: whether every linear layer but the head is meant, whatever its name.
        without: names that were meant for the experts: no module is adapted by them, shared and dense ones neither.
        router: whether the routing matrix has an adapter.
        gate, up, down: whether the routed experts' projections have.
        parameters: whether those are adapted as the parameters that transformers ≥ 5 keeps them in, `gate` and `up` as
            one with twice the rank, and not as one module for each expert.
    """

    names: tuple[str, ...]
    every_linear: bool = False
    without: tuple[str, ...] = ()
    router: bool = False
    gate: bool = False
    up: bool = False
    down: bool = False
    parameters: bool = False

    def hits(self, linear: Linear) -> bool:
        """Whether a module of the model gets an adapter."""
        if linear.kind is ModuleKind.ROUTER:
            return self.router
        if self.every_linear:
            return linear.kind in ADAPTABLE_KINDS and not ends_with(linear.name, self.without)
        return linear.kind in ADAPTABLE_KINDS | {ModuleKind.HEAD} and ends_with(linear.name, self.names)

    def reaches(self, layer: LayerShape) -> bool:
        """Whether anything of a layer is adapted."""
        if isinstance(layer.mlp, MixtureOfExperts) and (self.gate or self.up or self.down):
            return True
        return any(self.hits(linear) for linear in layer_linears(layer))


def ends_with(name: str, endings: tuple[str, ...]) -> bool:
    """Whether a name is one of `endings`, or ends with a dot and one of them."""
    return any(name == ending or name.endswith(f".{ending}") for ending in endings)


def aim_at(model: ModelShape, lora: Lora, stack: Stack) -> Aim:
    """What peft adapts when these modules are asked for.

    Raises:
        UsageError: peft refuses them for this model.
    """
    every = ALL_LINEAR in lora.target_modules
    plain = Aim(names=lora.target_modules, every_linear=every)
    mixture = next((layer.mlp for layer in model.layers if isinstance(layer.mlp, MixtureOfExperts)), None)
    if mixture is None or mixture.checkpoint_names is None:
        return plain  # gpt_oss' experts were parameters before transformers 5 too, and peft converts nothing
    if not stack.fused_experts:
        return _at_modules(plain, mixture, mixture.checkpoint_names)
    if not stack.adapts_fused_experts:
        return plain
    if every and not stack.all_linear_reaches_experts:
        raise UsageError(
            f"peft {stack.versions['peft']} cannot read all-linear for {model.model_type}, whose experts are fused",
            hint="name the modules, or use peft 0.20 or newer",
        )
    return _at_parameters(plain, mixture.checkpoint_names)


def _at_modules(plain: Aim, mixture: MixtureOfExperts, names: tuple[str, str, str]) -> Aim:
    """Up to transformers 4 each expert is three linear layers, and the router of some mixtures is one."""
    gate, up, down = (plain.every_linear or ends_with(f"{mixture.name}.0.{name}", plain.names) for name in names)
    router = mixture.linear_before_v5 and (plain.every_linear or ends_with(mixture.router.name, plain.names))
    return Aim(names=plain.names, every_linear=plain.every_linear, router=router, gate=gate, up=up, down=down)


def _at_parameters(plain: Aim, experts: tuple[str, str, str]) -> Aim:
    """Names of transformers 4's expert projections and router become parameters, and no longer name any module."""
    old_names = (OLD_ROUTER_NAME, *experts)
    if plain.every_linear:
        return Aim(
            names=plain.names,
            every_linear=True,
            without=old_names,
            router=True,
            gate=True,
            up=True,
            down=True,
            parameters=True,
        )
    meant = {old: [name for name in plain.names if ends_with(name, (old,))] for old in old_names}
    router, gate, up, down = (bool(meant[old]) for old in old_names)
    if gate != up:
        missing, present = (experts[0], experts[1]) if up else (experts[1], experts[0])
        raise UsageError(
            f"peft adapts {present} only together with {missing}: they are one parameter since transformers 5",
            hint=f"add {missing} to --lora-target-modules",
        )
    converted = {name for found in meant.values() for name in found}
    names = tuple(name for name in plain.names if name not in converted)
    return Aim(names=names, router=router, gate=gate, up=up, down=down, parameters=True)


def expert_adapter_shapes(moe: MixtureOfExperts, aim: Aim, r: int) -> Iterator[tuple[tuple[int, int], int]]:
    """(shape, count) of the routed experts' adapters in one layer.

    A parameter's two matrices hold all experts: experts · rank × in and out × experts · rank.
    """
    hidden, inner, experts = moe.hidden_size, moe.intermediate_size, moe.num_experts
    if aim.parameters:
        if aim.gate:
            yield (2 * r * experts, hidden), 1
            yield (2 * inner, 2 * r * experts), 1
        if aim.down:
            yield (r * experts, inner), 1
            yield (hidden, r * experts), 1
        return
    num_inward = aim.gate + aim.up
    if num_inward:
        yield (r, hidden), num_inward * experts
        yield (inner, r), num_inward * experts
    if aim.down:
        yield (r, inner), experts
        yield (hidden, r), experts


def adapter_shapes(model: ModelShape, lora: Lora, stack: Stack) -> tuple[tuple[tuple[int, int], int], ...]:
    """(shape, count) of each adapter matrix: r × in and out × r; empty where nothing is hit."""
    aim = aim_at(model, lora, stack)
    shapes: list[tuple[tuple[int, int], int]] = []
    for linear, count in [*model.linears(), (model.head, 1)]:
        if aim.hits(linear):
            shapes += [((lora.r, linear.in_features), count), ((linear.out_features, lora.r), count)]
    for layer, count in model.layer_groups():
        if isinstance(layer.mlp, MixtureOfExperts):
            shapes += [(shape, times * count) for shape, times in expert_adapter_shapes(layer.mlp, aim, lora.r)]
    return tuple(shapes)
