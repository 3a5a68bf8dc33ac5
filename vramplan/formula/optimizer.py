"""Optimizer states and the temporaries of a step, tensor by tensor.

Sources: torch 2.13 optim/adam.py (foreach takes the square root of every second moment at once; fused does not);
bitsandbytes 0.50.2 optim/optimizer.py (8-bit states in blocks of 256, fp32 below 4096 elements, paged from 1e5 elements
on); transformers 5.23 optimization.py Adafactor (factored second moment of matrices, one parameter at a time).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from vramplan.core.quick import dataclass
from vramplan.dtypes import DType
from vramplan.errors import CannotTellError
from vramplan.formula.blocks import allocated

EIGHT_BIT_BLOCK = 256
EIGHT_BIT_MIN_ELEMENTS = 4096
PAGED_MIN_ELEMENTS = 100_000
QUANTISATION_MAP_BYTES = 256 * 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainable:
    """`count` parameters of one shape that train.

    Args:
        shape: of each.
        dtype: of the parameter and its gradient.
        count: how many.
        keeps_fp32_states: whether 8-bit optimizers are told to leave its states in fp32.
    """

    shape: tuple[int, ...]
    dtype: DType
    count: int
    keeps_fp32_states: bool = False

    @property
    def numel(self) -> int:
        """Elements of one."""
        product = 1
        for size in self.shape:
            product *= size
        return product

    @property
    def tensor_bytes(self) -> int:
        """Bytes of one in its own dtype."""
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """How one `optim` name spends memory.

    Args:
        states: sizes in bytes of the state tensors of one parameter.
        foreach: whether the step holds a temporary as large as every parameter together.
        largest_temporaries: fp32 temporaries of the largest parameter that the step holds.
        is_paged: whether large states live in managed memory, outside the allocator.
        shared_bytes: tables made once.
        description: the states in words, for `--explain`.
    """

    states: Callable[[Trainable], tuple[int, ...]]
    foreach: bool = False
    largest_temporaries: int = 0
    is_paged: bool = False
    shared_bytes: int = 0
    description: str


def _two_moments(parameter: Trainable) -> tuple[int, ...]:
    return (parameter.tensor_bytes, parameter.tensor_bytes)


def _two_moments_and_step(parameter: Trainable) -> tuple[int, ...]:
    return (parameter.tensor_bytes, parameter.tensor_bytes, DType.FP32.itemsize)


def _fp32_moments(number: int) -> Callable[[Trainable], tuple[int, ...]]:
    return lambda parameter: (parameter.numel * DType.FP32.itemsize,) * number


def _eight_bit_moments(number: int) -> Callable[[Trainable], tuple[int, ...]]:
    def states(parameter: Trainable) -> tuple[int, ...]:
        if parameter.keeps_fp32_states or parameter.numel < EIGHT_BIT_MIN_ELEMENTS:
            return (parameter.numel * DType.FP32.itemsize,) * number
        blocks = -(-parameter.numel // EIGHT_BIT_BLOCK)
        return (parameter.numel, blocks * DType.FP32.itemsize) * number

    return states


def _factored(parameter: Trainable) -> tuple[int, ...]:
    if len(parameter.shape) < 2:
        return (parameter.numel * DType.FP32.itemsize,)
    *leading, rows, columns = parameter.shape
    matrices = 1
    for size in leading:
        matrices *= size
    return (matrices * rows * DType.FP32.itemsize, matrices * columns * DType.FP32.itemsize)


def _nothing(_parameter: Trainable) -> tuple[int, ...]:
    return ()


_ADAMW = Optimizer(states=_two_moments, foreach=True, description="two moments in the parameter's dtype")
_ADAMW_8BIT = Optimizer(
    states=_eight_bit_moments(2),
    shared_bytes=2 * QUANTISATION_MAP_BYTES,
    description="two 8-bit moments, fp32 scales for each 256 elements",
)
_ADAMW_32BIT = Optimizer(states=_fp32_moments(2), description="two fp32 moments")
_LION_8BIT = Optimizer(
    states=_eight_bit_moments(1), shared_bytes=QUANTISATION_MAP_BYTES, description="one 8-bit moment"
)
_LION_32BIT = Optimizer(states=_fp32_moments(1), description="one fp32 moment")


def _paged(optimizer: Optimizer) -> Optimizer:
    return Optimizer(
        states=optimizer.states,
        shared_bytes=optimizer.shared_bytes,
        is_paged=True,
        description=f"{optimizer.description}, paged",
    )


OPTIMIZERS: dict[str, Optimizer] = {
    "adamw_torch": _ADAMW,
    "adamw_torch_fused": Optimizer(
        states=_two_moments_and_step, description="two moments in the parameter's dtype, no temporaries (fused)"
    ),
    "adamw_8bit": _ADAMW_8BIT,
    "adamw_bnb_8bit": _ADAMW_8BIT,
    "paged_adamw_8bit": _paged(_ADAMW_8BIT),
    "paged_adamw_32bit": _paged(_ADAMW_32BIT),
    "lion_8bit": _LION_8BIT,
    "lion_32bit": _LION_32BIT,
    "paged_lion_8bit": _paged(_LION_8BIT),
    "paged_lion_32bit": _paged(_LION_32BIT),
    "adafactor": Optimizer(
        states=_factored, largest_temporaries=2, description="row and column sums of the second moment, fp32"
    ),
    "sgd": Optimizer(states=_nothing, description="no state"),
}


def find_optimizer(name: str) -> Optimizer:
    """The optimizer of that `--optim` name.

    Raises:
        CannotTellError: it is not modelled.
    """
    if name not in OPTIMIZERS:
        raise CannotTellError(f"the optimizer {name!r} is not modelled", hint=f"use {', '.join(sorted(OPTIMIZERS))}")
    return OPTIMIZERS[name]


def state_sizes(optimizer: Optimizer, trainables: Iterable[Trainable]) -> tuple[tuple[int, int], ...]:
    """(bytes, count) of every state tensor that sits in the allocator."""
    sizes: list[tuple[int, int]] = []
    for parameter in trainables:
        if optimizer.is_paged and parameter.numel >= PAGED_MIN_ELEMENTS:
            continue
        sizes += [(size, parameter.count) for size in optimizer.states(parameter)]
    if optimizer.shared_bytes:
        sizes.append((optimizer.shared_bytes, 1))
    return tuple(sizes)


def paged_bytes(optimizer: Optimizer, trainables: Iterable[Trainable]) -> int:
    """Bytes of states in managed memory."""
    if not optimizer.is_paged:
        return 0
    return sum(
        parameter.count * sum(optimizer.states(parameter))
        for parameter in trainables
        if parameter.numel >= PAGED_MIN_ELEMENTS
    )


def step_temporary_bytes(optimizer: Optimizer, trainables: Iterable[Trainable]) -> int:
    """Bytes that the step holds beside parameters, gradients and states."""
    parameters = tuple(trainables)
    if optimizer.foreach:
        return sum(parameter.count * allocated(parameter.tensor_bytes) for parameter in parameters)
    largest = max((parameter.numel for parameter in parameters), default=0)
    return optimizer.largest_temporaries * allocated(largest * DType.FP32.itemsize)
