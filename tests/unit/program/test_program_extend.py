from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vramplan.allocator.replay import replay
from vramplan.core.run import Method, Quantization, Run
from vramplan.dtypes import DType
from vramplan.program.extend import NotRepeating, extend
from vramplan.program.oracle import trace
from vramplan.program.pattern import Pattern, find_pattern


def _forward_and_backward(num_layers: int) -> tuple[list[int], list[int]]:
    """Each layer allocates five tensors; the backward frees its own and its upper neighbour's second tensor."""
    events, units, serials = [], [], {}
    for layer in range(num_layers):
        serials[layer] = len(serials) * 5
        events += [1000, 2000, 3000, 4000, 5000]
        units += [layer] * 5
    events.append(512)  # the head, which belongs to no layer
    units.append(-1)
    for layer in reversed(range(num_layers)):
        own = serials[layer]
        frees = [own, own + 2, own + 3, own + 4] + ([serials[layer + 1] + 1] if layer + 1 < num_layers else [])
        events += [-(serial + 1) for serial in frees]
        units += [layer] * len(frees)
    events.append(-(serials[0] + 1 + 1))
    units.append(0)
    return events, units


def test_extension_of_four_layers_is_the_longer_run_itself() -> None:
    short, units = _forward_and_backward(4)
    long, _ = _forward_and_backward(11)
    assert extend(short, units, num_units=11).events == long


def test_middle_layers_that_differ_are_refused() -> None:
    events, units = _forward_and_backward(4)
    events[6] += 512  # the second tensor of layer 1
    with pytest.raises(NotRepeating):
        extend(events, units, num_units=9)


def test_a_tensor_of_every_layer_freed_by_one_is_refused() -> None:
    units = [0, 1, 2, 3, 0, 0, 0, 0]
    with pytest.raises(NotRepeating):
        extend([512, 512, 512, 512, -1, -2, -3, -4], units, num_units=9)


@pytest.mark.parametrize(
    "options",
    [
        {"tuning": "full", "dtype": DType.FP32, "mixed": DType.BF16, "accumulation": 2, "attention": "eager"},
        {"quantization": Quantization.NF4, "checkpointing": True, "targets": ("all-linear",), "upcast": True},
        {"checkpointing": True, "reentrant": True, "tuning": "full", "accumulation": 2},
        {"quantization": Quantization.INT8, "checkpointing": True, "reentrant": True, "targets": ("all-linear",)},
        {"quantization": Quantization.INT8, "mixed": DType.BF16, "accumulation": 2},
        {"tuning": "full", "optim": "adamw_8bit"},
        {"method": Method.SCORE},
        {"method": Method.INFERENCE, "completion": 16, "attention": "eager"},
    ],
    ids=lambda options: "-".join(str(value) for value in options.values()),
)
def test_few_layers_extended_equal_all_layers_run(
    tiny: dict[str, Any], make_run: Callable[..., Run], options: dict[str, Any]
) -> None:
    run = make_run(**options)
    every = trace(tiny, run, every_layer=True)
    few = trace(tiny, run)
    assert few.peaks() == every.peaks()
    assert len(few.events) == len(every.events)
    assert replay(few.events).peak_reserved_bytes == pytest.approx(replay(every.events).peak_reserved_bytes, rel=0.02)


def test_patterns_of_layers_are_found() -> None:
    class Config:
        def __init__(self, **fields: Any) -> None:
            self.__dict__.update(fields)

    assert find_pattern(Config(num_hidden_layers=4)) is None  # nothing to gain
    plain = find_pattern(Config(num_hidden_layers=32))
    assert plain == Pattern(prefix=0, period=1, num_units=32, rest=0)
    kinds = ["sliding"] * 5 + ["full"]
    mixed = find_pattern(Config(num_hidden_layers=62, layer_types=(kinds * 11)[:62]))
    assert mixed == Pattern(prefix=0, period=6, num_units=10, rest=2)
    assert mixed.num_traced_layers == 26
    dense_first = find_pattern(Config(num_hidden_layers=61, first_k_dense_replace=3))
    assert dense_first == Pattern(prefix=3, period=1, num_units=58, rest=0)
    assert dense_first.unit_of_layer == {0: 0, 1: 0, 2: 0, 3: 0, 4: 1, 5: 2, 6: 3}
