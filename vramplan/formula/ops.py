"""Elementwise ops, casts, copies and reductions: what each allocates, saves and allocates again in its derivative.

Sources: PyTorch's tools/autograd/derivatives.yaml and torch/csrc/autograd/FunctionsManual.cpp (what is saved, which
temporaries the derivative makes); aten/src/ATen/autocast_mode.h (what runs in which dtype under autocast on CUDA).
"""

from __future__ import annotations

from vramplan.dtypes import DType
from vramplan.formula.graph import GatherNode, Grads, Node, apply, connect
from vramplan.formula.tape import Tape, Tensor


def promote(first: DType, second: DType) -> DType:
    """The dtype of an op on two floating tensors (torch.promote_types)."""
    return first if first is second else DType.FP32


def to(tape: Tape, tensor: Tensor, dtype: DType) -> Tensor:
    """`tensor.to(dtype)`: the tensor itself if it has that dtype already, else a copy whose derivative casts back."""
    if tensor.dtype is dtype:
        return tensor
    source, numel = tensor.dtype, tensor.numel
    return apply(tape, numel, dtype, (tensor,), (), lambda _grad: (tape.empty(numel, source),))


def autocast_dtype(tape: Tape, tensor: Tensor) -> DType:
    """The dtype that a matrix multiplication takes it in."""
    return tensor.dtype if tape.autocast is None else tape.autocast


def to_autocast(tape: Tape, tensor: Tensor) -> Tensor:
    """The operand of a matrix multiplication under autocast.

    fp32 leaves that need a gradient are cast once and kept until the region ends (autocast_mode.cpp, cached_cast); any
    other operand is cast each time.
    """
    if tape.autocast is None or tensor.dtype is tape.autocast:
        return tensor
    if tensor.leaf is None or tensor.dtype is not DType.FP32:
        return to(tape, tensor, tape.autocast)
    if id(tensor.leaf) not in tape.cast_cache:
        with tape.owner("autocast"):
            tape.cast_cache[id(tensor.leaf)] = tensor.leaf, to(tape, tensor, tape.autocast)
    return tape.cast_cache[id(tensor.leaf)][1]


def to_autocast_fp32(tape: Tape, tensor: Tensor) -> Tensor:
    """The operand of an op that CUDA's autocast runs in fp32 (softmax, norms, losses, pow, rsqrt, …)."""
    return tensor if tape.autocast is None else to(tape, tensor, DType.FP32)


def copy(tape: Tape, tensor: Tensor) -> Tensor:
    """`.contiguous()` or `.reshape()` of something that is not contiguous; the derivative passes the gradient on."""
    return apply(tape, tensor.numel, tensor.dtype, (tensor,), (), _pass_on)


def _pass_on(grad: Tensor) -> Grads:
    return (grad,)


def unary(tape: Tape, tensor: Tensor, *, saves: str = "input", temporaries: int = 0) -> Tensor:
    """An elementwise function of one tensor.

    Args:
        tape: where it allocates.
        tensor: its input.
        saves: what its derivative needs: `input` (silu, gelu, pow), `result` (tanh, sigmoid, exp, rsqrt) or `nothing`
            (a product with a number).
        temporaries: full-size temporaries that its derivative holds beside its result.
    """
    numel, dtype = tensor.numel, tensor.dtype

    def derivative(_grad: Tensor) -> Grads:
        extra = [tape.empty(numel, dtype) for _ in range(temporaries)]
        result = tape.empty(numel, dtype)
        del extra
        return (result,)

    saved = (tensor,) if saves == "input" else ()
    return apply(tape, numel, dtype, (tensor,), saved, derivative, saves_result=saves == "result")


def dropout(tape: Tape, tensor: Tensor) -> Tensor:
    """`native_dropout` in training: keeps a mask of one byte for each element."""
    numel, dtype = tensor.numel, tensor.dtype
    result = apply(tape, numel, dtype, (tensor,), (), lambda _grad: (tape.empty(numel, dtype),))
    mask = tape.empty(numel, DType.BOOL)
    if result.node is not None:
        result.node.save(tape, mask)
    return result


def scale(tape: Tape, tensor: Tensor) -> Tensor:
    """A product or quotient with a Python number."""
    return unary(tape, tensor, saves="nothing")


def reduce(tape: Tape, tensor: Tensor, numel: int, *, spreads: int = 1) -> Tensor:
    """A sum or mean to `numel` elements; its derivative spreads the gradient over `spreads` full tensors (mean: one).

    The gradient of a sum is an expanded view: `spreads=0`.
    """
    whole, dtype = tensor.numel, tensor.dtype

    def derivative(grad: Tensor) -> Grads:
        return (tape.empty(whole, dtype) if spreads else Tensor(grad.storage, whole, dtype),)

    return apply(tape, numel, dtype, (tensor,), (), derivative)


def add(tape: Tape, first: Tensor, second: Tensor) -> Tensor:
    """A sum: saves nothing; each input gets the gradient itself, summed or cast where its shape or dtype differs."""
    dtype = promote(first.dtype, second.dtype)
    needs = (first.requires_grad, second.requires_grad)

    def derivative(grad: Tensor) -> Grads:
        return [grad.detach() if need else None for need in needs]

    result = apply(tape, max(first.numel, second.numel), dtype, (first, second), (), derivative)
    _want(result, first, second)
    return result


def _want(result: Tensor, first: Tensor, second: Tensor) -> None:
    if result.node is not None:
        result.node.wanted = ((first.numel, first.dtype), (second.numel, second.dtype))


def mul(tape: Tape, first: Tensor, second: Tensor) -> Tensor:
    """A product: saves each factor that the other's gradient needs.

    A factor that was broadcast, or is of another dtype, gets its gradient through a product of the result's.
    """
    dtype = promote(first.dtype, second.dtype)
    numel = max(first.numel, second.numel)
    needs = (first.requires_grad, second.requires_grad)

    def derivative(_grad: Tensor) -> Grads:
        return [tape.empty(numel, dtype) if need else None for need in needs]

    saved = (second if needs[0] else None, first if needs[1] else None)
    result = apply(tape, numel, dtype, (first, second), saved, derivative)
    _want(result, first, second)
    return result


def narrow(tape: Tape, tensor: Tensor, numel: int) -> Tensor:
    """A slice: a view, whose derivative fills a whole-size gradient with zeros around its part (slice_backward).

    A slice of everything is the tensor itself (python_variable_indexing.cpp, applySlice).
    """
    whole, dtype = tensor.numel, tensor.dtype
    if numel == whole:
        return tensor
    part = Tensor(tensor.storage, numel, dtype)
    return connect(tape, part, (tensor,), (), lambda _grad: (tape.empty(whole, dtype),))


def chunk(tape: Tape, tensor: Tensor, numels: tuple[int, ...]) -> list[Tensor]:
    """`.split()` / `.chunk()`: one node for all views, whose derivative joins their gradients once all are there.

    The gradients of one view are summed as they come; a node for each view stands for its place in the buffer.
    """
    whole, dtype = tensor.numel, tensor.dtype
    parts = [Tensor(tensor.storage, numel, dtype) for numel in numels]
    if tape.grad_enabled and tensor.requires_grad:
        node = GatherNode(tape, (tensor.node or tensor.leaf,), (), lambda _grad: (tape.empty(whole, dtype),))
        for part in parts:
            part.node = Node(tape, (node,), (), _pass_on)
    return parts


def _cast(tape: Tape, grad: Tensor, dtype: DType) -> Tensor:
    return grad if grad.dtype is dtype else tape.empty(grad.numel, dtype)


def cat(tape: Tape, parts: list[Tensor]) -> Tensor:
    """Concatenation: the derivative hands out views of the gradient, cast where a part was of another dtype."""
    dtype = parts[0].dtype
    for part in parts:
        dtype = promote(dtype, part.dtype)
    shapes = [(part.numel, part.dtype) for part in parts]

    def derivative(grad: Tensor) -> Grads:
        return [_cast(tape, Tensor(grad.storage, numel, grad.dtype), own) for numel, own in shapes]

    return apply(tape, sum(part.numel for part in parts), dtype, parts, (), derivative)


def repeat(tape: Tape, states: Tensor, times: int, *, is_view: bool) -> Tensor:
    """`repeat_kv`: an expanded view, made contiguous unless there is one head only; its derivative sums the groups."""
    if times == 1:
        return states
    numel, dtype = states.numel, states.dtype

    def derivative(_grad: Tensor) -> Grads:
        return (tape.empty(numel, dtype),)

    if is_view:
        return connect(tape, Tensor(states.storage, numel * times, dtype), (states,), (), derivative)
    return apply(tape, numel * times, dtype, (states,), (), derivative)


def add_in_place(tape: Tape, total: Tensor, other: Tensor) -> Tensor:
    """`total += other`: the same storage; both get the gradient itself."""
    needs = (total.requires_grad, other.requires_grad)

    def derivative(grad: Tensor) -> Grads:
        return [grad.detach() if need else None for need in needs]

    return connect(tape, Tensor(total.storage, total.numel, total.dtype), (total, other), (), derivative)
