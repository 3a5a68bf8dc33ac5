"""Bytes of weights: which tensors a quantiser converts, and what each then takes.

Sources: transformers 5.23 integrations/bitsandbytes.py (nn.Linear and Conv1D are converted, the output head is not);
bitsandbytes 0.50.2 functional.py quantize_4bit (absmax fp32 for each block of 64; nested: uint8 absmax, its own absmax
for each 256, a code of 256 and an offset) and nn/modules.py Int8Params (one fp32 scale for each output row).
"""

from __future__ import annotations

from functools import lru_cache

from vramplan.core.model import ModelShape, ModuleKind, StoredQuantization, Weight
from vramplan.core.quick import dataclass
from vramplan.core.run import LoadSpec, Quantization
from vramplan.core.stack import Stack
from vramplan.dtypes import DType, Format
from vramplan.formula.blocks import allocated

FOUR_BIT = Format(name="4-bit", block_elements=2, block_bytes=1)
ABSMAX = Format(name="absmax", block_elements=64, block_bytes=4)
NESTED_ABSMAX = Format(name="nested absmax", block_elements=64, block_bytes=1)
NESTED_BLOCK = 256
FOUR_BIT_CODE_BYTES = 16 * 4
NESTED_CODE_BYTES = 256 * 4
NESTED_OFFSET_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredWeight:
    """One kind of parameter as it sits on the device.

    Args:
        weight: the parameter.
        dtype: its element type; the compute dtype where it is quantised.
        quantization: how it is stored.
        data_bytes: its elements.
        state_bytes: scales and codes, one entry for each tensor.
    """

    weight: Weight
    dtype: DType
    quantization: Quantization
    data_bytes: int
    state_bytes: tuple[int, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Bytes of all `count` of them, without padding."""
        return self.weight.count * (self.data_bytes + sum(self.state_bytes))

    @property
    def allocated_bytes(self) -> int:
        """Bytes of all `count` of them in the caching allocator."""
        return self.weight.count * (allocated(self.data_bytes) + sum(allocated(size) for size in self.state_bytes))


def converted_kinds(stack: Stack) -> frozenset[ModuleKind]:
    """The kinds of module that bitsandbytes replaces (transformers integrations/bitsandbytes.py, by version)."""
    return CONVERTED_KINDS | {ModuleKind.LINEAR_SUBCLASS} if stack.converts_linear_subclasses else CONVERTED_KINDS


CONVERTED_KINDS = frozenset({ModuleKind.LINEAR, ModuleKind.CONV1D})


def store(weight: Weight, load: LoadSpec, stack: Stack) -> StoredWeight:
    """How one parameter is stored under a load specification."""
    return _store(weight, load, converted_kinds(stack), frozenset())


BF16_NAMES = ("lm_head", "embed_tokens", "wte", "wpe")
"""TRL 0.13.0 to 0.28.0 peft_module_casting_to_bf16: modules with one of these in their name go back to bf16."""


def bf16_modules(model: ModelShape, load: LoadSpec) -> frozenset[str]:
    """The modules outside the layers that TRL casts to bf16, a tied embedding with its head."""
    if not load.kbit_bf16_embeddings:
        return frozenset()
    outside = (*(embedding.name for embedding in model.embeddings), model.head.name)
    names = {name for name in outside if any(part in name for part in BF16_NAMES)}
    if model.tie_word_embeddings and model.head.name in names:
        names.add(model.embeddings[0].name)
    return frozenset(names)


def dense_dtype(load: LoadSpec, kind: ModuleKind, module: str, bf16: frozenset[str]) -> DType:
    """The dtype of a parameter that bitsandbytes does not convert.

    Args:
        load: how its model is loaded.
        kind: what kind of module holds it.
        module: that module's name.
        bf16: the model's `bf16_modules`.
    """
    if not load.quantization.is_bitsandbytes:
        return load.dtype
    dtype = load.dtype
    # TRL 0.25.0 models/utils.py goes by the name; peft 0.21.2 utils/other.py takes every 16-bit parameter.
    if load.kbit_fp32_upcast and ("norm" in module or not load.kbit_norms_only):
        dtype = DType.FP32
    # peft_module_casting_to_bf16: norms that are not called so are a torch.nn.LayerNorm, which it asks for too.
    if load.kbit_bf16_embeddings and kind is ModuleKind.NORM:
        return DType.FP32
    return DType.BF16 if module in bf16 and dtype is DType.FP32 else dtype


def _store(weight: Weight, load: LoadSpec, converted: frozenset[ModuleKind], bf16: frozenset[str]) -> StoredWeight:
    numel = weight.num_elements
    quantises = load.quantization.is_bitsandbytes
    if quantises and weight.name == "weight" and weight.kind in converted:
        if load.quantization is Quantization.INT8:
            rows = weight.shape[1] if weight.kind is ModuleKind.CONV1D else weight.shape[0]
            data_bytes = numel
            states: tuple[int, ...] = (4 * rows,)
        else:
            data_bytes, states = FOUR_BIT.num_bytes(numel), four_bit_states(numel, nested=load.double_quant)
        return StoredWeight(
            weight=weight,
            dtype=load.dtype,
            quantization=load.quantization,
            data_bytes=data_bytes,
            state_bytes=states,
        )
    dtype = dense_dtype(load, weight.kind, weight.module, bf16)
    return StoredWeight(weight=weight, dtype=dtype, quantization=Quantization.NONE, data_bytes=numel * dtype.itemsize)


def four_bit_states(numel: int, *, nested: bool) -> tuple[int, ...]:
    """Bytes of each tensor of a bitsandbytes QuantState."""
    if not nested:
        return (ABSMAX.num_bytes(numel), FOUR_BIT_CODE_BYTES)
    blocks = NESTED_ABSMAX.num_bytes(numel)
    outer = -(-blocks // NESTED_BLOCK) * 4
    return (blocks, FOUR_BIT_CODE_BYTES, outer, NESTED_CODE_BYTES, NESTED_OFFSET_BYTES)


def store_model(model: ModelShape, load: LoadSpec, stack: Stack) -> tuple[StoredWeight, ...]:
    """Every parameter of a model as it sits on the device."""
    return _store_model(model, load, stack.fused_experts, converted_kinds(stack))


@lru_cache(maxsize=128)  # a report asks for each model in three precisions, and the runs of one process share models
def _store_model(
    model: ModelShape, load: LoadSpec, fused_experts: bool, converted: frozenset[ModuleKind]
) -> tuple[StoredWeight, ...]:
    weights = model.weights(fused_experts=fused_experts)
    if load.quantization is Quantization.STORED:
        assert model.stored_quantization is not None
        return tuple(store_as_on_disk(weight, load, model.stored_quantization) for weight in weights)
    bf16 = bf16_modules(model, load)
    return tuple(_store(weight, load, converted, bf16) for weight in weights)


FP8_KINDS = frozenset({ModuleKind.LINEAR, ModuleKind.EXPERTS})


def store_as_on_disk(weight: Weight, load: LoadSpec, stored: StoredQuantization) -> StoredWeight:
    """One parameter of a checkpoint that is quantised on disk.

    fp8 keeps one byte an element and an fp32 scale for each block of every linear layer and expert (transformers 5.23
    integrations/finegrained_fp8.py: weight_scale_inv); mxfp4 keeps half a byte an element of the experts and a byte of
    scale for each 32 (integrations/mxfp4.py: blocks and scales).
    """
    numel, matrix = weight.num_elements, len(weight.shape) > 1
    dense = StoredWeight(
        weight=weight, dtype=load.dtype, quantization=Quantization.NONE, data_bytes=numel * load.dtype.itemsize
    )
    if any(name in weight.module for name in stored.skipped_modules):
        return dense
    if stored.method == "fp8" and weight.kind in FP8_KINDS and matrix:
        rows, columns = stored.block_shape or (128, 128)
        *leading, height, width = weight.shape
        blocks = -(-height // rows) * -(-width // columns)
        for size in leading:
            blocks *= size
        data_bytes, states = numel, (4 * blocks,)
    elif stored.method == "mxfp4" and weight.kind is ModuleKind.EXPERTS and len(weight.shape) == 3:
        data_bytes, states = FOUR_BIT.num_bytes(numel), (-(-numel // MXFP4_BLOCK),)
    else:
        return dense
    return StoredWeight(
        weight=weight, dtype=load.dtype, quantization=Quantization.STORED, data_bytes=data_bytes, state_bytes=states
    )


MXFP4_BLOCK = 32
