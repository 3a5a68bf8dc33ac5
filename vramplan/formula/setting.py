"""Everything an estimate starts from: the run, the shapes of its models, the libraries, the card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from vramplan.core.device import Gpu
from vramplan.core.model import ModelShape, ModuleKind
from vramplan.core.run import Method, Role, Run, Tuning
from vramplan.core.stack import Stack
from vramplan.dtypes import DType
from vramplan.formula.adapters import adapter_shapes
from vramplan.formula.code import code_of
from vramplan.formula.optimizer import Optimizer, Trainable, find_optimizer
from vramplan.formula.sharding import division
from vramplan.formula.weights import StoredWeight, store_model


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A run with all that its bytes depend on.

    Args:
        run: the run.
        models: the shape of each role's model.
        stack: what the library versions do.
        gpu: the card.
    """

    run: Run
    models: Mapping[str, ModelShape]
    stack: Stack
    gpu: Gpu

    @cached_property
    def stored(self) -> dict[str, tuple[StoredWeight, ...]]:
        """Each role's parameters as they sit on the device; a role that shares another's weights has none."""
        return {
            role.name: () if role.shares else store_model(self.models[role.name], role.load, self.stack)
            for role in self.run.roles
        }

    @cached_property
    def trainables(self) -> tuple[Trainable, ...]:
        """What trains: adapters, or every parameter."""
        training = self.run.training
        if training is None:
            return ()
        trained = self.run.trained
        if training.tuning is Tuning.LORA:
            assert training.lora is not None
            return tuple(
                Trainable(shape=shape, dtype=training.lora.dtype, count=count)
                for shape, count in adapter_shapes(self.models[trained.name], training.lora, self.stack)
            )
        return tuple(
            Trainable(
                shape=stored.weight.shape,
                dtype=stored.dtype,
                count=stored.weight.count,
                # transformers 5.23 trainer.py 1328-1338, as for years before: every nn.Embedding, tied heads with it
                keeps_fp32_states=self.trainer_named and stored.weight.kind is ModuleKind.EMBEDDING,
            )
            for stored in self.stored[trained.name]
        )

    @cached_property
    def optimizer(self) -> Optimizer | None:
        """The optimizer, or None where nothing trains."""
        return None if self.run.training is None else find_optimizer(self.run.training.optim)

    @property
    def trainer_named(self) -> bool:
        """Whether a trainer runs the loop."""
        return runs_in_trainer(self.run, self.stack)

    def model_upcasts_logits(self, role: Role) -> bool:
        """Whether a role's model itself returns fp32 logits when it is given labels."""
        return self.stack.model_upcasts_logits and not code_of(self.models[role.name].model_type).own_loss

    @property
    def checkpoints_return_keys(self) -> bool:
        """Whether the trained model's layers return keys and values of an SFT step though they are checkpointed."""
        training, stack = self.run.training, self.stack
        return (
            self.run.method is Method.SFT
            and training is not None
            and training.gradient_checkpointing
            and stack.checkpoints_return_keys
            and code_of(self.models[self.run.trained.name].model_type).lacks_cache_guard
            and not ("trl" in stack.named and stack.sft_disables_cache)
        )

    def autocast(self, role: Role) -> DType | None:
        """The autocast dtype that a role's forward runs in.

        A plain loop over weights that are in that dtype already has nothing to cast: autocast is taken to be off, as it
        measurably was in the fp16 runs of fitcheck-llm 0.3.1 (data/measurements), where k-bit-prepared heads made fp32
        logits.
        """
        training = self.run.training
        if training is None or training.mixed_precision is None or division(self.run.sharding).deepspeed:
            return None  # DeepSpeed keeps 16-bit parameters and casts nothing
        if not self.trainer_named and role.load.dtype is training.mixed_precision:
            return None
        return training.mixed_precision


def warms_up(run: Run, stack: Stack, *, in_trainer: bool) -> bool:
    """Whether from_pretrained warms the allocator up: newer ones do where they load onto the device.

    A plain training script loads what is not quantised into host memory and moves it (`model.cuda()`, as fitcheck-llm
    0.3.1 scripts/measure.py does: two of its T4 rows then come out to the last segment); quantised weights are loaded
    with a device map.
    """
    quantized = any(role.load.quantization.is_bitsandbytes for role in run.roles)
    moves = run.training is not None and not in_trainer and not quantized
    return stack.warms_up_allocator and not moves


def runs_in_trainer(run: Run, stack: Stack) -> bool:
    """Whether a trainer (TRL or accelerate) runs the loop: it drops the model's outputs before the backward."""
    if run.launched or run.method in (Method.GRPO, Method.DPO, Method.RLT):
        return True
    return bool(stack.named & {"trl", "accelerate"})
