"""A parameter with a LoRA adapter of its own: while its module runs, peft puts their sum in the parameter's place.

Sources: peft 0.21.2 tuners/lora/layer.py ParamWrapper (_activate_lora, get_delta_factors, get_delta_weight,
_LoraFactorsProxy, _LoraParameterProxy); torch 2.13 nn/utils/parametrize.py (register_parametrization runs the sum once
to look at its shape and dtype; `cached()` keeps it from its first use until the outermost wrapper's forward ends).
"""

from __future__ import annotations

from vramplan.formula.graph import Grads, apply, connect
from vramplan.formula.linear import Adapter, matmul
from vramplan.formula.ops import add, scale, to
from vramplan.formula.tape import Tape, Tensor


class Parametrized:
    """One parameter during one forward of its module; with no adapter, the parameter itself.

    Args:
        tape: where it allocates.
        weight: the parameter.
        adapter: its adapter, or None.
        folds: whether the sum is one `baddbmm` over the experts, without a delta as large as the parameter: peft from
            0.21.0 on (pull request 3577), and for stacks of experts only.
    """

    __slots__ = ("_delta", "_factors", "_sum", "_tape", "_weight")

    def __init__(self, tape: Tape, weight: Tensor, adapter: Adapter | None, *, folds: bool) -> None:
        """Register the parametrization."""
        self._tape, self._weight = tape, weight
        self._factors: tuple[Tensor, Tensor] | None = None
        self._delta: Tensor | None = None
        self._sum: Tensor | None = None
        if adapter is None:
            self._sum = weight
            return
        up, down = (_per_expert(tape, adapter.up), adapter.down) if folds else (adapter.up, adapter.down)
        if folds:
            self._factors = to(tape, up, weight.dtype), to(tape, down, weight.dtype)
        else:
            self._delta = to(tape, scale(tape, matmul(tape, down, up, weight.numel)), weight.dtype)
        with tape.no_grad():
            self._added()

    def value(self) -> Tensor:
        """What the module's forward finds under the parameter's name."""
        if self._sum is None:
            self._sum = self._added()
        return self._sum

    def _added(self) -> Tensor:
        if self._factors is None:
            assert self._delta is not None
            return add(self._tape, self._weight, self._delta)
        return _folded(self._tape, self._weight, *self._factors)


def _per_expert(tape: Tape, up: Tensor) -> Tensor:
    """out × (rank · experts) seen as experts × out × rank: on the way back the reshape copies."""
    numel, dtype = up.numel, up.dtype
    return connect(tape, Tensor(up.storage, numel, dtype), (up,), (), lambda _grad: (tape.empty(numel, dtype),))


def _folded(tape: Tape, weight: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """`torch.baddbmm(weight, up, down)`, autocast off."""
    sizes = up.numel, down.numel
    dtype = weight.dtype

    def derivative(_grad: Tensor) -> Grads:
        return [None, *(tape.empty(size, dtype) for size in sizes)]

    return apply(tape, weight.numel, dtype, (weight, up, down), (up, down), derivative)
