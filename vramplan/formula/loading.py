"""How weights reach the device, replayed: the allocator that the first phase finds, and what blocks keep beside them.

A block of the large pool keeps what is left of its free block if that is at most 1 MiB
(c10/cuda/CUDACachingAllocator.cpp, should_split), and the rest counts as allocated for the weight's life: 14 MiB of 715
in SmolLM2-360M in 16 bits, as fitcheck-llm 0.3.1 measured it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from vramplan.allocator.plain import PlainAllocator
from vramplan.allocator.sizes import MIN_BLOCK_BYTES, SMALL_BYTES, round_up
from vramplan.core.run import Quantization
from vramplan.dtypes import DType
from vramplan.formula.setting import Setting, warms_up
from vramplan.formula.timeline import Blocks, Timeline
from vramplan.formula.weights import StoredWeight, bf16_modules


class Loading(NamedTuple):
    """What decides how a role's weights reach the device.

    Args:
        stored: its parameters.
        warms_up: whether from_pretrained asks for the whole model first.
        upcasts: whether what ends in fp32 arrived in 16 bits.
        recasts: modules that were made fp32 as well, and go back to bf16 once there are adapters.
        buffer_bytes: of its buffers.
    """

    stored: tuple[StoredWeight, ...]
    warms_up: bool
    upcasts: bool
    recasts: frozenset[str]
    buffer_bytes: int


class LoadedModels(NamedTuple):
    """Every model on the device, before there are adapters.

    Args:
        allocator: to be copied.
        rest_bytes: for each model what its blocks keep beyond its tensors.
        recast: what goes back to bf16 once there are adapters, with the bytes of each.
    """

    allocator: PlainAllocator
    rest_bytes: tuple[int, ...]
    recast: tuple[tuple[Blocks, int], ...]


def load_models(setting: Setting) -> LoadedModels:
    """The models of a run, in the order of its roles, without those that rest in host memory."""
    return _loaded(
        tuple(
            Loading(
                stored=setting.stored[role.name],
                warms_up=warms_up(setting.run, setting.stack, in_trainer=setting.trainer_named),
                upcasts=role.load.kbit_fp32_upcast
                and role.load.quantization.is_bitsandbytes
                and role.load.dtype.is_half,
                recasts=frozenset()
                if role.load.kbit_norms_only
                else bf16_modules(setting.models[role.name], role.load),
                buffer_bytes=0 if role.shares else setting.models[role.name].buffer_bytes,
            )
            for role in setting.run.roles
            if not role.offloaded
        )
    )


def with_adapters(models: LoadedModels, adapters: Sequence[tuple[int, int]]) -> PlainAllocator:
    """An allocator of one's own with the models and (bytes, count) of the adapters' matrices."""
    allocator, held = models.allocator.copy(block for old, _ in models.recast for block in old)
    timeline, own = Timeline(allocator), iter(held)
    timeline.allocate(_layer_by_layer(adapters))
    _replace(timeline, [([next(own) for _ in old], num_bytes) for old, num_bytes in models.recast])
    return timeline.allocator


@lru_cache(maxsize=256)
def _loaded(roles: tuple[Loading, ...]) -> LoadedModels:
    """Kept, because the runs of a sweep load the same models."""
    timeline = Timeline()
    rests: list[int] = []
    recast: list[tuple[Blocks, int]] = []
    for role in roles:
        before = timeline.allocator.allocated_bytes
        num_bytes, again = _load(timeline, role)
        rests.append(timeline.allocator.allocated_bytes - before - num_bytes)
        recast += again
    timeline.allocator.close()
    return LoadedModels(allocator=timeline.allocator, rest_bytes=tuple(rests), recast=tuple(recast))


def _load(timeline: Timeline, role: Loading) -> tuple[int, list[tuple[Blocks, int]]]:
    """Weights in the order of a checkpoint; a quantised one reaches the device in 16 bits first.

    Returns:
        The bytes of what stays, each tensor's to 512 and none of the small pool; what does not stay as it is, and the
        bytes that take its place.
    """
    if role.warms_up:
        _warm_up(timeline, role)
    total = 0
    upcast: list[tuple[Blocks, int]] = []
    recast: list[int] = []

    def keep(*sizes: int) -> None:
        nonlocal total
        total += _large(sizes)
        timeline.allocate((size, 1) for size in sizes)

    for stored in _in_order(role):
        if stored.state_bytes:
            source = timeline.allocate((size, 1) for size in _on_the_way(stored))
            keep(stored.data_bytes, *stored.state_bytes)
            timeline.free(source)
        elif role.upcasts and stored.dtype is DType.FP32:
            upcast.append((timeline.allocate(((stored.data_bytes // 2, 1),)), stored.data_bytes))
        elif role.upcasts and stored.weight.module in role.recasts:
            recast.append(len(upcast))
            upcast.append((timeline.allocate(((stored.data_bytes, 1),)), 2 * stored.data_bytes))
        else:
            keep(stored.data_bytes)
    total += _large(num_bytes for _, num_bytes in upcast)
    whole = _replace(timeline, upcast)
    if role.buffer_bytes:
        keep(role.buffer_bytes)
    return total, [(whole[index], upcast[index][1] // 2) for index in recast]


def _large(sizes: Iterable[int]) -> int:
    return sum(round_up(size, MIN_BLOCK_BYTES) for size in sizes if size > SMALL_BYTES)


def _replace(timeline: Timeline, pairs: Iterable[tuple[Blocks, int]]) -> list[Blocks]:
    """Each tensor by one of other bytes, one after the other."""
    new: list[Blocks] = []
    for old, num_bytes in pairs:
        new.append(timeline.allocate(((num_bytes, 1),)))
        timeline.free(old)
    return new


def _in_order(role: Loading) -> Iterator[StoredWeight]:
    """Outside the layers first, then layer by layer; without those that ask the large pool for nothing.

    from_pretrained sorts by name (core_model_loading.py, transformers 5.23); a script moves module by module.
    """
    large = [one for one in role.stored if max(one.data_bytes, *one.state_bytes, *_on_the_way(one)) > SMALL_BYTES]
    if role.warms_up:
        large.sort(key=lambda one: one.weight.module)
    layers: list[list[StoredWeight]] = []
    for one in large:
        if not one.weight.per_layer:
            yield one
            continue
        for index in range(one.weight.count):
            if index == len(layers):
                layers.append([])
            layers[index].append(one)
    for layer in layers:
        yield from layer


def _layer_by_layer(sizes: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Those that the large pool has, one layer after another."""
    sizes = [(num_bytes, count) for num_bytes, count in sizes if num_bytes > SMALL_BYTES]
    deepest = max((count for _, count in sizes), default=0)
    for index in range(deepest):
        for num_bytes, count in sizes:
            if index < count:
                yield num_bytes, 1


def _warm_up(timeline: Timeline, role: Loading) -> None:
    """from_pretrained with a device map asks for the whole model first, without its scales, and frees it.

    The segment stays in the cache, and is where the weights go (transformers 5.23 modeling_utils.py
    caching_allocator_warmup, which counts what becomes fp32 later in its 16 bits).
    """
    total = 0
    for one in role.stored:
        halved = role.upcasts and not one.state_bytes and one.dtype is DType.FP32
        total += one.weight.count * (one.data_bytes // 2 if halved else one.data_bytes)
    timeline.free(timeline.allocate(((total, 1),)))


def _on_the_way(stored: StoredWeight) -> tuple[int, ...]:
    """16-bit copies of a weight that exist while it is quantised.

    The checkpoint's tensor, and for LLM.int8 an fp16 copy too, which comes back by way of the CPU (transformers 5.23
    integrations/bitsandbytes.py Bnb8bitQuantize; bitsandbytes nn/modules.py Int8Params._quantize).
    """
    half = stored.weight.num_elements * 2
    return (half, half) if stored.quantization is Quantization.INT8 else (half,)


def largest_temporary(setting: Setting) -> int:
    """Bytes of the largest matrix while it is quantised on the device, 0 without quantisation."""
    sizes = [
        sum(_on_the_way(stored))
        for role in setting.run.roles
        for stored in setting.stored[role.name]
        if stored.state_bytes
    ]
    return max(sizes, default=0)
