"""The engine's rules: which gradients are summed in place, where a recomputation stops, who keeps what."""

from __future__ import annotations

import pytest

from vramplan.dtypes import DType
from vramplan.formula.graph import Leaf, Node, backward
from vramplan.formula.linear import Weights, linear, parameter
from vramplan.formula.ops import add, chunk, copy, mul, reduce, scale, to, to_autocast, unary
from vramplan.formula.recompute import Frame, checkpoint
from vramplan.formula.tape import Tape, Tensor

N = 4096


def leaf_of(tape: Tape, numel: int = N, dtype: DType = DType.FP32) -> Tensor:
    """A tensor with storage whose gradient is kept."""
    tensor = tape.empty(numel, dtype)
    tensor.leaf = Leaf()
    return tensor


def alive(tape: Tape) -> list[int]:
    """Sizes of what has not been freed, in order."""
    sizes: dict[int, int] = {}
    serial = 0
    for event in tape.events:
        if event > 0:
            sizes[serial] = event
            serial += 1
        else:
            del sizes[-1 - event]  # a second free of one serial would fail here
    return list(sizes.values())


def peak_of(events: list[int]) -> int:
    sizes: list[int] = []
    now = peak = 0
    for event in events:
        if event > 0:
            sizes.append(event)
            now += event
            peak = max(peak, now)
        else:
            now -= sizes[-1 - event]
    return peak


def test_an_allocation_is_freed_once_with_its_last_reference() -> None:
    tape = Tape()
    tensor = tape.empty(N, DType.FP32)
    view = tensor.view(N // 2)
    del tensor
    assert alive(tape) == [N * 4]
    del view
    assert tape.events == [N * 4, -1]


def test_zero_bytes_are_no_allocation() -> None:
    tape = Tape()
    empty = tape.empty(0, DType.FP32)
    del empty
    assert tape.events == []


def test_nothing_is_saved_without_a_gradient_to_compute() -> None:
    tape = Tape()
    tensor = tape.empty(N, DType.BF16)
    result = unary(tape, tensor)
    assert result.node is None
    del tensor
    assert alive(tape) == [N * 2]


def test_no_grad_records_nothing() -> None:
    tape = Tape()
    tensor = leaf_of(tape)
    with tape.no_grad():
        assert unary(tape, tensor).node is None
    assert unary(tape, tensor).node is not None


def test_a_function_that_saves_its_input_keeps_it_until_its_backward() -> None:
    tape = Tape()
    source = leaf_of(tape)
    middle = scale(tape, source)
    loss = reduce(tape, unary(tape, middle), 1)
    del middle
    assert alive(tape).count(N * 4) == 2  # the leaf, and the input that the function saved
    backward(tape, loss)
    del loss
    assert alive(tape) == [N * 4, N * 4]  # the leaf and its gradient


def test_two_gradients_of_one_tensor_are_summed_in_place() -> None:
    tape = Tape()
    source = leaf_of(tape)
    middle = scale(tape, source)
    loss = reduce(tape, add(tape, scale(tape, middle), scale(tape, middle)), 1)
    del middle
    before = len(tape.events)
    backward(tape, loss)
    requests = [event for event in tape.events[before:] if event == N * 4]
    # The sum's gradient, one for each product, one for the first scale: none for the sum of the two.
    assert len(requests) == 4


def test_gradients_that_share_storage_are_summed_into_a_new_tensor() -> None:
    tape = Tape()
    source = leaf_of(tape)
    middle = scale(tape, source)
    loss = reduce(tape, add(tape, middle, middle), 1)
    del middle
    before = len(tape.events)
    backward(tape, loss)
    requests = [event for event in tape.events[before:] if event == N * 4]
    # The sum hands one tensor out twice: adding into it would change it for the other, so there is a third.
    assert len(requests) == 3


def test_a_gradient_of_another_dtype_is_cast_back() -> None:
    tape = Tape()
    source = leaf_of(tape, dtype=DType.BF16)
    loss = reduce(tape, to(tape, source, DType.FP32), 1)
    backward(tape, loss)
    assert source.leaf is not None
    assert source.leaf.grad is not None
    assert source.leaf.grad.dtype is DType.BF16


def test_casting_to_its_own_dtype_makes_nothing() -> None:
    tape = Tape()
    tensor = leaf_of(tape)
    assert to(tape, tensor, DType.FP32) is tensor


def test_a_tied_weight_waits_for_both_of_its_gradients() -> None:
    tape = Tape()
    weight = parameter(N, DType.FP32, trains=True, has_gradient=True)
    used_first = scale(tape, weight)
    used_last = scale(tape, weight)
    loss = reduce(tape, add(tape, unary(tape, used_first), used_last), 1)
    del used_first, used_last
    marks = backward(tape, loss, boundaries=(1,))
    assert weight.leaf is not None
    assert weight.leaf.num_uses == 2
    held = peak_of(tape.events[: marks[0]])
    assert held >= 3 * N * 4  # the later use's gradient is held while the earlier one's is computed
    del loss
    assert alive(tape) == []  # added into the gradient that was there, which is counted elsewhere


def test_a_leaf_that_has_a_gradient_keeps_no_other() -> None:
    tape = Tape()
    weight = parameter(N, DType.FP32, trains=True, has_gradient=True)
    loss = reduce(tape, scale(tape, weight), 1)
    backward(tape, loss)
    del loss
    assert alive(tape) == []


def test_first_gradients_belong_to_gradients() -> None:
    tape = Tape()
    weight = parameter(N, DType.FP32, trains=True)
    loss = reduce(tape, scale(tape, weight), 1)
    backward(tape, loss)
    del loss
    assert alive(tape) == [N * 4]
    assert "gradients" in tape.owners


def test_a_checkpointed_block_keeps_its_input_only() -> None:
    def block(hidden: Tensor) -> tuple[Tensor, None]:
        return unary(tape, unary(tape, hidden)), None

    tape = Tape()
    hidden = leaf_of(tape)
    result, _ = checkpoint(tape, block, hidden)
    assert alive(tape) == [N * 4, N * 4]  # input and output
    del result
    assert alive(tape) == [N * 4]


def test_a_recomputation_stops_at_its_last_saved_tensor() -> None:
    calls: list[str] = []

    def block(hidden: Tensor) -> tuple[Tensor, None]:
        calls.append("begins")
        middle = unary(tape, hidden)
        result = scale(tape, unary(tape, middle))
        calls.append("ends")
        return result, None

    tape = Tape()
    hidden = leaf_of(tape)
    result, _ = checkpoint(tape, block, hidden)
    loss = reduce(tape, result, 1)
    del result
    assert calls == ["begins", "ends"]
    backward(tape, loss)
    # The second function saves `middle` before it runs: neither its result nor what follows is made again.
    assert calls == ["begins", "ends", "begins"]
    del loss
    assert alive(tape) == [N * 4, N * 4]  # the input and its gradient


def test_a_recomputation_saves_as_many_tensors_as_the_forward() -> None:
    def block(hidden: Tensor) -> tuple[Tensor, None]:
        return mul(tape, unary(tape, hidden), unary(tape, hidden)), None

    tape = Tape()
    hidden = leaf_of(tape)
    result, _ = checkpoint(tape, block, hidden)
    node = result.node
    assert node is not None
    frames = {id(item.frame) for item in node.saved if not isinstance(item, Tensor)}
    assert len(frames) == 1
    frame = next(item.frame for item in node.saved if not isinstance(item, Tensor))
    assert isinstance(frame, Frame)
    assert frame.num_saved == 4  # both inputs of the functions, both factors


def test_the_views_of_a_chunk_are_concatenated_once() -> None:
    tape = Tape()
    source = leaf_of(tape)
    first, second = chunk(tape, scale(tape, source), (N // 2, N // 2))
    loss = reduce(tape, mul(tape, first, second), 1)
    del first, second
    before = len(tape.events)
    backward(tape, loss)
    whole = [event for event in tape.events[before:] if event == N * 4]
    # One whole gradient for the chunk, one for the scale before it.
    assert len(whole) == 2


def test_both_gradients_of_a_chunk_live_until_it_has_run() -> None:
    tape = Tape()
    source = leaf_of(tape)
    first, second = chunk(tape, scale(tape, source), (N // 2, N // 2))
    early = unary(tape, first)
    late = unary(tape, second)
    loss = reduce(tape, add(tape, reduce(tape, early, 1), reduce(tape, late, 1)), 1)
    del first, second, early, late
    marks = backward(tape, loss, boundaries=(2,))  # before the views' own nodes run
    held = peak_of(tape.events[: marks[0]])
    backward_alone = peak_of(tape.events)
    assert backward_alone >= held
    del loss
    assert alive(tape) == [N * 4, N * 4]


def test_one_view_of_a_chunk_sums_its_gradients_as_they_come() -> None:
    tape = Tape()
    source = leaf_of(tape)
    first, second = chunk(tape, scale(tape, source), (N // 2, N // 2))
    products = [scale(tape, first) for _ in range(4)]
    total = add(tape, add(tape, products[0], products[1]), add(tape, products[2], products[3]))
    loss = reduce(tape, mul(tape, total, second), 1)
    del first, second, products, total
    start = sum(alive(tape))
    before = len(tape.events)
    backward(tape, loss)
    sizes = [event for event in tape.events if event > 0]
    now = peak = start
    for event in tape.events[before:]:
        now += event if event > 0 else -sizes[-1 - event]
        peak = max(peak, now)
    # Four gradients of half the size, three of them summed away: never more than two and the whole ones.
    assert peak - start <= 4 * (N * 4)


def test_autocast_caches_the_cast_of_a_weight_that_trains_until_the_region_ends() -> None:
    tape = Tape()
    weight = parameter(N, DType.FP32, trains=True)
    with tape.autocasting(DType.BF16):
        first = to_autocast(tape, weight)
        assert to_autocast(tape, weight) is first
        del first
        assert alive(tape) == [N * 2]
    assert alive(tape) == []


def test_a_cast_is_never_taken_for_another_leafs() -> None:
    """Leaves that are gone, whose addresses are used again."""
    tape = Tape()
    with tape.autocasting(DType.BF16):
        for count in range(1, 50):
            to_autocast(tape, parameter(N, DType.FP32, trains=True))
            assert tape.sizes == [N * 2] * count


def test_autocast_casts_a_frozen_weight_each_time() -> None:
    tape = Tape()
    weight = parameter(N, DType.FP32, trains=False)
    with tape.autocasting(DType.BF16):
        first, second = to_autocast(tape, weight), to_autocast(tape, weight)
        assert alive(tape) == [N * 2, N * 2]
        del first, second
        assert alive(tape) == []


def test_autocast_leaves_its_own_dtype_alone() -> None:
    tape = Tape()
    states = tape.empty(N, DType.BF16)
    with tape.autocasting(DType.BF16):
        assert to_autocast(tape, states) is states


def test_owners_are_those_of_the_time() -> None:
    tape = Tape()
    first = tape.empty(N, DType.FP32)
    with tape.owner("logits"):
        second = tape.empty(N, DType.FP32)
    third = tape.empty(N, DType.FP32)
    assert tape.owners == ["activations", "logits", "activations"]
    del first, second, third


def test_nodes_run_newest_first_and_boundaries_are_where_they_pass() -> None:
    order: list[int] = []
    tape = Tape()
    source = leaf_of(tape)

    def watched(index: int, tensor: Tensor) -> Tensor:
        result = copy(tape, tensor)

        def derivative(grad: Tensor) -> list[Tensor | None]:
            order.append(index)
            return [grad]

        result.node = Node(tape, (tensor.node or tensor.leaf,), (), derivative)
        return result

    states = source
    for index in range(3):
        states = watched(index, states)
    marks = backward(tape, states, boundaries=(tape.num_nodes, 2, 0))
    assert order == [2, 1, 0]
    assert marks == sorted(marks)


@pytest.mark.parametrize("checkpoints", [False, True])
@pytest.mark.parametrize("trains", [False, True])
def test_a_stack_of_layers_leaves_only_gradients_behind(checkpoints: bool, trains: bool) -> None:
    width, tokens = 64, 128
    tape = Tape()
    weights = [
        Weights(in_features=width, out_features=width, weight=parameter(width * width, DType.BF16, trains=trains))
        for _ in range(3)
    ]
    source = tape.empty(tokens * width, DType.BF16)
    source.leaf = Leaf(source.detach())

    def block_of(index: int):
        return lambda hidden: (unary(tape, linear(tape, hidden, weights[index])), None)

    hidden = source
    for index in range(3):
        block = block_of(index)
        hidden = checkpoint(tape, block, hidden)[0] if checkpoints else block(hidden)[0]
    loss = reduce(tape, hidden, 1)
    del hidden, block
    backward(tape, loss)
    del loss
    expected = [tokens * width * 2] * 2 + ([width * width * 2] * 3 if trains else [])
    assert sorted(alive(tape)) == sorted(expected)  # the input, its gradient, and one for each weight
