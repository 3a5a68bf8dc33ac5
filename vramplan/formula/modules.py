"""A model's layers as weights ready to run: quantised, frozen or training, with adapters where they are aimed."""

from __future__ import annotations

from vramplan.core.model import (
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
from vramplan.dtypes import DType
from vramplan.formula.adapters import is_target
from vramplan.formula.block import LayerWeights
from vramplan.formula.experts import ExpertWeights
from vramplan.formula.linear import Adapter, Weights, parameter
from vramplan.formula.logits import HeadWeights
from vramplan.formula.tape import Tensor
from vramplan.formula.weights import converted_kinds


class Modules:
    """Makes the modules of one role.

    Args:
        load: how its weights are stored.
        training: what trains, or None for a model that only answers.
        stack: which modules bitsandbytes converts.
        unfrozen: whether dense weights still ask for gradients though nothing trains them: autocast then keeps copies.
        gradients_exist: whether what trains has gradients already, to which new ones are added.
    """

    def __init__(
        self,
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
        upcast = load.kbit_fp32_upcast and load.quantization.is_bitsandbytes
        self.dense_dtype = DType.FP32 if upcast else load.dtype
        self.embedding: Tensor | None = None

    def parameter(self, numel: int) -> Tensor:
        """A dense weight."""
        return parameter(numel, self.dense_dtype, trains=self.trains, has_gradient=self.gradients_exist)

    def adapter(self, numel: int, lora: Lora) -> Tensor:
        """A matrix of a LoRA branch."""
        return parameter(numel, lora.dtype, trains=True, has_gradient=self.gradients_exist)

    def linear(self, linear: Linear) -> Weights:
        """A projection."""
        converted = self.load.quantization.is_bitsandbytes and linear.kind in self.converted_kinds
        numel = linear.in_features * linear.out_features
        weight = parameter(numel, self.load.dtype, trains=False) if converted else self.parameter(numel)
        adapter = None
        if self.lora is not None and is_target(linear.name, linear.kind, self.lora):
            adapter = Adapter(
                r=self.lora.r,
                down=self.adapter(self.lora.r * linear.in_features, self.lora),
                up=self.adapter(self.lora.r * linear.out_features, self.lora),
            )
        return Weights(
            in_features=linear.in_features,
            out_features=linear.out_features,
            weight=weight,
            bias=self.parameter(linear.out_features) if linear.bias else None,
            quantization=self.load.quantization if converted else Quantization.NONE,
            adapter=adapter,
            written_out=linear.kind is ModuleKind.LINEAR_SUBCLASS,
        )

    def norm(self, norm: Norm) -> tuple[Tensor, Tensor | None]:
        """A norm's weight and bias."""
        return self.parameter(norm.size), self.parameter(norm.size) if norm.bias else None

    def layer(self, layer: LayerShape) -> LayerWeights:
        """One decoder layer."""
        experts = None
        if isinstance(layer.mlp, MixtureOfExperts):
            moe = layer.mlp
            width = moe.num_experts * moe.hidden_size * moe.intermediate_size
            experts = ExpertWeights(
                gate_up=self.parameter(2 * width),
                down=self.parameter(width),
                gate_up_bias=self.parameter(2 * moe.num_experts * moe.intermediate_size) if moe.expert_bias else None,
                down_bias=self.parameter(moe.num_experts * moe.hidden_size) if moe.expert_bias else None,
            )
        return LayerWeights(
            shape=layer,
            linears={linear.name: self.linear(linear) for linear in layer_linears(layer)},
            norms={norm.name: self.norm(norm) for norm in layer_norms(layer)},
            experts=experts,
            sinks=self.parameter(layer.attention.num_sinks) if layer.attention.num_sinks else None,
        )

    def embed(self, model: ModelShape) -> Tensor:
        """The token embedding, made once so that a tied head can share it."""
        if self.embedding is None:
            tokens = model.embeddings[0]
            self.embedding = self.parameter(tokens.num_embeddings * tokens.embedding_dim)
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
