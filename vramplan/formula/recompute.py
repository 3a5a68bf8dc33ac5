"""Checkpointing on a tape: what a block saved is made again when its backward asks for it.

Source: torch 2.13 utils/checkpoint.py, the non-reentrant variant.
"""

from __future__ import annotations

from collections.abc import Callable

from vramplan.formula.tape import Tape, Tensor


class StopRecomputation(Exception):  # noqa: N818  (it is control flow, as torch's _StopRecomputationError)
    """Every saved tensor has been recomputed: the rest of the block need not run."""


class Held:
    """Stands for a tensor that a checkpointed block saved, and will recompute."""

    __slots__ = ("frame", "index")

    def __init__(self, frame: Frame, index: int) -> None:
        """The `index`-th tensor that the block of `frame` saves."""
        self.frame = frame
        self.index = index


class Frame:
    """One checkpointed block: non-reentrant torch.utils.checkpoint.

    The first forward saves nothing and counts; the first unpack runs the block again and stops when the last tensor
    that was saved is there again (early stop).
    """

    __slots__ = ("autocast", "num_recomputed", "num_saved", "recomputed", "rerun", "tape")

    def __init__(self, tape: Tape, rerun: Callable[[], object]) -> None:
        """`rerun` runs the block again."""
        self.tape = tape
        self.rerun = rerun
        self.num_saved = self.num_recomputed = 0
        self.recomputed: dict[int, Tensor] | None = None
        self.autocast = tape.autocast

    def pack(self, tensor: Tensor) -> Tensor | Held:
        """Count the tensor in the first forward; keep it when recomputing."""
        if self.recomputed is None:
            held = Held(self, self.num_saved)
            self.num_saved += 1
            return held
        self.recomputed[self.num_recomputed] = tensor.detach()
        self.num_recomputed += 1
        if self.num_recomputed == self.num_saved:
            raise StopRecomputation
        return tensor.detach()

    def unpack(self, index: int) -> Tensor:
        """The `index`-th saved tensor, recomputing all of them when it is the first asked for."""
        if self.recomputed is None:
            self._recompute()
        assert self.recomputed is not None
        return self.recomputed.pop(index)

    def _recompute(self) -> None:
        tape = self.tape
        self.recomputed = {}
        before_frame, before_grad = tape.frame, tape.grad_enabled
        tape.frame, tape.grad_enabled = self, True
        try:
            with tape.autocasting(self.autocast):
                self.rerun()
        except StopRecomputation as stop:
            stop.__traceback__ = None  # the block's locals must die here, as they do in torch
        finally:
            tape.frame, tape.grad_enabled = before_frame, before_grad


Block = Callable[[Tensor], "tuple[Tensor, Tensor | None]"]
"""A decoder layer: hidden states in, hidden states and perhaps attention weights out."""
Checkpoint = Callable[[Tape, Block, Tensor], "tuple[Tensor, Tensor | None]"]
"""Runs a block so that only its input is kept: `checkpoint`, or reentrant.py's."""


def checkpoint(tape: Tape, block: Block, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
    """Run `block` and keep only its input, as each layer does under gradient checkpointing."""
    frame = Frame(tape, lambda: block(hidden))
    before, tape.frame = tape.frame, frame
    try:
        return block(hidden)
    finally:
        tape.frame = before
