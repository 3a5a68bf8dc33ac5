"""A model's layers as weights ready to run: quantised, frozen or training, with adapters where they are aimed."""

from __future__ import annotations

from dataclasses import replace

from vramplan.core.model import (
    Embedding,
    LayerShape,
    Linear,
    MixtureOfExperts,
    ModelShape,
    ModuleKind,
    Norm,
    layer_linears,
    layer_norms,
)
from vramplan.core.run import LoadSpec, Lora, Quantization, Training, Tuning
from vramplan.core.stack import Stack
from vramplan.formula.adapters import Aim, aim_at
from vramplan.formula.block import LayerWeights
from vramplan.formula.experts import ExpertWeights
from vramplan.formula.linear import Adapter, Weights, parameter
from vramplan.formula.logits import HeadWeights
from vramplan.formula.tape import Tensor
from vramplan.formula.weights import bf16_modules, converted_kinds, dense_dtype


class Modules:
    """Makes the modules of one role.

    Args:
        model: its shape.
        load: how its weights are stored.
        training: what trains, or None for a model that only answers.
        stack: which modules bitsandbytes converts, and which peft adapts.
        unfrozen: whether dense weights still ask for gradients though nothing trains them: autocast then keeps copies.
        gradients_exist: whether what trains has gradients already, to which new ones are added.
    """

    def __init__(
        self,
        model: ModelShape,
        load: LoadSpec,
        training: Training | None,
        stack: Stack,
        *,
        gradients_exist: bool = False,
        unfrozen: bool = False,
    ) -> None:
        """See the class."""
        self.gradients_exist = gradients_exist
        self.load = load
        self.converted_kinds = converted_kinds(stack)
        self.trains = unfrozen or (training is not None and training.tuning is Tuning.FULL)
        self.lora: Lora | None = None if training is None else training.lora
        self.aim: Aim | None = None if self.lora is None else aim_at(model, self.lora, stack)
        self.folds_adapters = stack.expert_adapters_folded
        self.bf16_modules = bf16_modules(model, load)
        self.embedding: Tensor | None = None

    def parameter(self, numel: int, kind: ModuleKind = ModuleKind.PARAMETER, module: str = "") -> Tensor:
        """A dense weight of a module of this kind and name."""
        dtype = dense_dtype(self.load, kind, module, self.bf16_modules)
        return parameter(numel, dtype, trains=self.trains, has_gradient=self.gradients_exist)

    def position_embedding(self, positions: Embedding) -> Tensor:
        """The table of learned positions."""
        numel = positions.num_embeddings * positions.embedding_dim
        return self.parameter(numel, ModuleKind.EMBEDDING, positions.name)

    def adapter(
        self, hit: bool, in_features: int, out_features: int, *, stacked: int = 1, share: int = 1
    ) -> Adapter | None:
        """The two matrices of an adapter, or None where there is none.

        Args:
            hit: whether there is one.
            in_features, out_features: of each of the matrices it adapts.
            stacked: how many it adapts at once.
            share: how many times the rank each of them has.
        """
        if self.lora is None or not hit:
            return None
        rank = self.lora.r * share
        down, up = (
            parameter(size * rank * stacked, self.lora.dtype, trains=True, has_gradient=self.gradients_exist)
            for size in (in_features, out_features)
        )
        return Adapter(r=rank, down=down, up=up)

    def linear(self, linear: Linear) -> Weights:
        """A projection."""
        converted = self.load.quantization.is_bitsandbytes and linear.kind in self.converted_kinds
        numel = linear.in_features * linear.out_features
        kind, name = linear.kind, linear.name
        weight = parameter(numel, self.load.dtype, trains=False) if converted else self.parameter(numel, kind, name)
        hit = self.aim is not None and self.aim.hits(linear)
        if self.aim is not None and self.aim.parameters and linear.kind is ModuleKind.ROUTER:
            hit = False  # its adapter is the parameter's: see `experts`
        return Weights(
            in_features=linear.in_features,
            out_features=linear.out_features,
            weight=weight,
            bias=self.parameter(linear.out_features, kind, name) if linear.bias else None,
            quantization=self.load.quantization if converted else Quantization.NONE,
            adapter=self.adapter(hit, linear.in_features, linear.out_features),
            written_out=linear.kind is ModuleKind.LINEAR_SUBCLASS,
        )

    def norm(self, norm: Norm) -> tuple[Tensor, Tensor | None]:
        """A norm's weight and bias."""
        weight = self.parameter(norm.size, ModuleKind.NORM, norm.name)
        return weight, self.parameter(norm.size, ModuleKind.NORM, norm.name) if norm.bias else None

    def experts(self, moe: MixtureOfExperts) -> ExpertWeights:
        """The routed experts of one layer, and every adapter of a mixture that is no module's."""
        inner, hidden, num_experts = moe.intermediate_size, moe.hidden_size, moe.num_experts
        weights = ExpertWeights(
            gate_up=self.parameter(2 * num_experts * hidden * inner),
            down=self.parameter(num_experts * hidden * inner),
            gate_up_bias=self.parameter(2 * num_experts * inner) if moe.expert_bias else None,
            down_bias=self.parameter(num_experts * hidden) if moe.expert_bias else None,
            folds_adapters=self.folds_adapters,
        )
        aim = self.aim
        if aim is None:
            return weights
        if aim.parameters:
            return replace(
                weights,
                router_adapter=self.adapter(aim.router, hidden, num_experts),
                gate_up_adapter=self.adapter(aim.gate, hidden, 2 * inner, stacked=num_experts, share=2),
                down_adapter=self.adapter(aim.down, inner, hidden, stacked=num_experts),
            )
        return replace(
            weights,
            gate_branch=self.adapter(aim.gate, hidden, inner, stacked=num_experts),
            up_branch=self.adapter(aim.up, hidden, inner, stacked=num_experts),
            down_branch=self.adapter(aim.down, inner, hidden, stacked=num_experts),
        )

    def layer(self, layer: LayerShape) -> LayerWeights:
        """One decoder layer."""
        experts = None
        if isinstance(layer.mlp, MixtureOfExperts):
            experts = self.experts(layer.mlp)
        return LayerWeights(
            shape=layer,
            linears={linear.name: self.linear(linear) for linear in layer_linears(layer)},
            norms={norm.name: self.norm(norm) for norm in layer_norms(layer)},
            experts=experts,
            sinks=self.parameter(layer.attention.num_sinks) if layer.attention.num_sinks else None,
        )

    def first_trained(self, model: ModelShape) -> int:
        """The first layer of which anything trains."""
        aim = self.aim
        return 0 if aim is None else next((i for i, layer in enumerate(model.layers) if aim.reaches(layer)), 0)

    def embed(self, model: ModelShape) -> Tensor:
        """The token embedding, made once so that a tied head can share it."""
        if self.embedding is None:
            tokens = model.embeddings[0]
            numel = tokens.num_embeddings * tokens.embedding_dim
            self.embedding = self.parameter(numel, ModuleKind.EMBEDDING, tokens.name)
        return self.embedding

    def head(self, model: ModelShape) -> HeadWeights:
        """Final norm and head."""
        weights = self.linear(model.head)
        if model.tie_word_embeddings:
            weights.weight = self.embed(model)
        return HeadWeights(
            norm=None if model.final_norm is None else self.norm(model.final_norm),
            head=weights,
            projection=None if model.projection_out is None else self.linear(model.projection_out),
        )
