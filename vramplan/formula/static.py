"""What is on the device whatever phase runs: weights, adapters, gradients, optimizer states, workspaces."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from vramplan.allocator.sizes import block_bytes
from vramplan.core.model import FusedProjection
from vramplan.core.report import Basis, Component, Entry
from vramplan.core.run import Method, Role
from vramplan.dtypes import DType
from vramplan.formula.blocks import allocated
from vramplan.formula.loading import LoadedModels, load_models
from vramplan.formula.optimizer import state_sizes, step_temporary_bytes
from vramplan.formula.setting import Setting
from vramplan.formula.sharding import GATHERED_LAYERS, MASTER_AND_MOMENTS_BYTES, division, share
from vramplan.formula.weights import StoredWeight

Sizes = tuple[tuple[int, int], ...]
"""(bytes, count) of tensors."""


def allocated_total(sizes: Iterable[tuple[int, int]]) -> int:
    """Bytes in the allocator of (bytes, count) pairs."""
    return sum(allocated(num_bytes) * count for num_bytes, count in sizes)


class Static:
    """The sizes of everything that outlives a phase, whatever the sizes of the run's batches.

    Args:
        setting: the run, or one that differs from it in its sizes only.
    """

    def __init__(self, setting: Setting) -> None:
        """See the class."""
        self.setting = setting
        self.division = division(setting.run.sharding)
        self._entries: dict[str, tuple[Entry, ...]] = {}

    def weight_sizes(self, role: Role) -> Sizes:
        """A role's weights and the buffers beside them."""
        sizes: list[tuple[int, int]] = []
        for stored in self.setting.stored[role.name]:
            sizes += [(size, stored.weight.count) for size in (stored.data_bytes, *stored.state_bytes)]
        buffers = self.setting.models[role.name].buffer_bytes
        if buffers and not role.shares:
            sizes.append((buffers, 1))
        return share(tuple(sizes), self.division.weights)

    def gathered_bytes(self, role: Role, *, generates: bool) -> int:
        """What a sharded model gathers to run: what is outside the layers and two layers, or all of it to generate.

        TRL gathers a ZeRO-3 model whole for transformers' generation (ds3_gather_for_generation).
        """
        if self.division.weights == 1:
            return 0
        stored, num_layers = self.setting.stored[role.shares or role.name], len(self.setting.models[role.name].layers)
        inside = sum(one.num_bytes for one in stored if one.weight.per_layer)
        outside = sum(one.num_bytes for one in stored if not one.weight.per_layer)
        if generates and self.division.deepspeed:
            return inside + outside
        return outside + GATHERED_LAYERS * inside // num_layers

    def weights_bytes(self, role: Role) -> int:
        """A role's weights in the allocator."""
        return self._weights_bytes[role.name]

    @cached_property
    def loaded(self) -> LoadedModels:
        """The models as loading leaves them in the allocator."""
        return load_models(self.setting)

    @cached_property
    def _weights_bytes(self) -> dict[str, int]:
        roles = self.setting.run.roles
        found = {role.name: allocated_total(self.weight_sizes(role)) for role in roles}
        if self.division.weights == 1:
            resting = [role for role in roles if not role.offloaded]
            for role, rest_bytes in zip(resting, self.loaded.rest_bytes, strict=True):
                tensors = sum(block_bytes(num_bytes) * count for num_bytes, count in self.weight_sizes(role))
                found[role.name] = tensors + rest_bytes
        return found

    @cached_property
    def trainable_sizes(self) -> Sizes:
        """Tensors that train."""
        return tuple((parameter.tensor_bytes, parameter.count) for parameter in self.setting.trainables)

    @cached_property
    def trains_adapters(self) -> bool:
        """Whether what trains is adapters, beside frozen weights."""
        training = self.setting.run.training
        return training is not None and training.lora is not None

    @cached_property
    def adapters_bytes(self) -> int:
        """LoRA matrices."""
        return allocated_total(self.trainable_sizes) if self.trains_adapters else 0

    @cached_property
    def gradients_bytes(self) -> int:
        """Gradients of everything that trains."""
        return self.division.gradient_copies * allocated_total(self.gradient_sizes)

    @cached_property
    def gradient_sizes(self) -> Sizes:
        """Gradients, tensor by tensor."""
        return share(self.trainable_sizes, self.division.gradients)

    @cached_property
    def state_sizes(self) -> Sizes:
        """Optimizer states in the allocator."""
        optimizer = self.setting.optimizer
        if optimizer is None:
            return ()
        if self.division.deepspeed:
            return tuple(
                (-(-parameter.numel * MASTER_AND_MOMENTS_BYTES // self.division.states), parameter.count)
                for parameter in self.setting.trainables
            )
        return share(state_sizes(optimizer, self.setting.trainables), self.division.states)

    @cached_property
    def states_bytes(self) -> int:
        """Optimizer states in the allocator."""
        return allocated_total(self.state_sizes)

    @cached_property
    def step_bytes(self) -> int:
        """What the optimizer step holds for a moment."""
        optimizer = self.setting.optimizer
        if optimizer is None or self.division.deepspeed:
            return 0
        return step_temporary_bytes(optimizer, self.setting.trainables) // self.division.states

    @cached_property
    def step_sizes(self) -> Sizes:
        """The same, tensor by tensor."""
        optimizer = self.setting.optimizer
        if optimizer is not None and optimizer.foreach and not self.division.deepspeed:
            return self.gradient_sizes
        return ((self.step_bytes, 1),) if self.step_bytes else ()

    @cached_property
    def workspace_sizes(self) -> Sizes:
        """cuBLAS workspaces: one for each thread that multiplies, and autograd's backward has a thread of its own."""
        threads = 1 if self.setting.run.training is None else 2
        return ((self.setting.gpu.cublas_workspace_bytes, threads),)

    def is_resident(self, role: Role, active: Role) -> bool:
        """Whether a role's weights are on the device while `active` runs."""
        return not role.offloaded or role == active or active.shares == role.name

    def weight_entries(self, active: Role | None) -> list[Entry]:
        """One line for each role on the device; where none is active, for each that does not rest in host memory."""
        entries: list[Entry] = []
        for role in self.setting.run.roles:
            if not role.offloaded if active is None else self.is_resident(role, active):
                if role.name not in self._entries:
                    self._entries[role.name] = self._role_entries(role)
                entries += self._entries[role.name]
        return entries

    def gathered_entries(self, role: Role, *, generates: bool) -> list[Entry]:
        """What a sharded model gathers while it runs."""
        num_bytes = self.gathered_bytes(role, generates=generates)
        if not num_bytes:
            return []
        return [
            Entry(
                component=Component.WEIGHTS,
                label=f"{role.name}: gathered",
                num_bytes=num_bytes,
                basis=Basis.MODELLED,
                formula="the whole model" if generates else f"embeddings, head and {GATHERED_LAYERS} layers",
                source="torch FSDP and DeepSpeed ZeRO-3: what runs and the next layer; TRL ds3_gather_for_generation",
            )
        ]

    def _role_entries(self, role: Role) -> tuple[Entry, ...]:
        sizes = self.weight_sizes(role)
        exact = sum(num_bytes * count for num_bytes, count in sizes)
        per_gpu = f", over {self.division.weights} GPUs" if self.division.weights > 1 else ""
        return (
            Entry(
                component=Component.WEIGHTS,
                label=role.name,
                num_bytes=exact,
                basis=Basis.EXACT,
                formula=weights_formula(self.setting.stored[role.name], role) + per_gpu,
                source="shapes of transformers' modules; bitsandbytes functional.py and nn/modules.py",
            ),
            Entry(
                component=Component.WEIGHTS,
                label=f"{role.name}: padding",
                num_bytes=self.weights_bytes(role) - exact,
                basis=Basis.MODELLED,
                formula="each tensor to 512 B, and what its block keeps: up to 1 MiB that is left of a free one",
                source="c10/cuda/CUDACachingAllocator.cpp round_size, should_split",
            ),
        )


def kept_outputs_bytes(setting: Setting) -> int:
    """What a plain loop's `outputs` still hold when the optimizer steps; 0 where a trainer dropped them.

    Logits, and the keys and values of a model that returns them (`Setting.checkpoints_return_keys`).
    """
    if setting.run.method is not Method.SFT or setting.trainer_named:
        return 0
    role, sizes = setting.run.trained, setting.run.sizes
    model = setting.models[role.name]
    dtype = setting.autocast(role) or role.load.dtype
    keys = 0
    if setting.checkpoints_return_keys:
        for layer, count in model.layer_groups():
            assert isinstance(layer.attention.projections, FusedProjection)
            keys += count * layer.attention.projections.query_key_value.out_features * dtype.itemsize
    if role.load.kbit_fp32_upcast or setting.model_upcasts_logits(role):
        dtype = DType.FP32
    tokens = sizes.per_device_batch_size * sizes.sequence_length
    return tokens * (model.vocab_size * dtype.itemsize + keys)


def weights_formula(stored: tuple[StoredWeight, ...], role: Role) -> str:
    """The sum over storage formats with its numbers put in."""
    if role.shares:
        return f"uses the weights of {role.shares}"
    groups: dict[str, list[int]] = {}
    for one in stored:
        name = one.quantization.value if one.state_bytes else one.dtype.label
        group = groups.setdefault(name, [0, 0, 0])
        group[0] += one.weight.total_elements
        group[1] += one.weight.count * one.data_bytes
        group[2] += one.weight.count * sum(one.state_bytes)
    parts = []
    for name, (elements, data, states) in groups.items():
        scales = f" + {states:,} B scales" if states else ""
        parts.append(f"{elements:,} {name} = {data:,} B{scales}")
    return "; ".join(parts)
