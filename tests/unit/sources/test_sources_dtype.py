"""The dtype a checkpoint is stored in, from its headers."""

from __future__ import annotations

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramplan.sources import StoredTensors, stored_dtype_label

shapes = st.lists(st.integers(1, 50), max_size=3).map(tuple)
dtypes = st.sampled_from(["BF16", "F16", "F32", "F8_E4M3", "I64", "U8"])
tensors = st.dictionaries(st.text(min_size=1, max_size=8), st.tuples(dtypes, shapes), max_size=12)


@given(tensors)
def test_elements_are_counted_once(stored: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    headers = StoredTensors(tensors=stored, num_files=1)
    assert headers.num_elements == sum(prod(shape) for _, shape in stored.values())
    assert sum(headers.num_elements_by_dtype.values()) == headers.num_elements


@given(tensors)
def test_the_label_is_a_dtype_with_the_most_floating_elements(stored: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    headers = StoredTensors(tensors=stored, num_files=1)
    counts = {label: headers.num_elements_by_dtype.get(name, 0) for name, label in LABELS.items()}
    label = stored_dtype_label(headers)
    assert (label is None) == (not any(counts.values()))
    assert label is None or counts[label] == max(counts.values())


LABELS = {"BF16": "bf16", "F16": "fp16", "F32": "fp32"}


@pytest.mark.parametrize(
    ("stored", "label"),
    [
        ({"a": ("F8_E4M3", (100,)), "b": ("BF16", (10,)), "c": ("F32", (5,))}, "bf16"),  # DeepSeek-V3 as stored
        ({"a": ("U8", (100,)), "b": ("F16", (1,))}, "fp16"),  # 4-bit bitsandbytes
        ({"a": ("F64", (100,)), "b": ("F16", (1,))}, None),
        ({"a": ("I64", (100,))}, None),
        ({}, None),
    ],
)
def test_quantised_and_odd_checkpoints(stored: dict[str, tuple[str, tuple[int, ...]]], label: str | None) -> None:
    assert stored_dtype_label(StoredTensors(tensors=stored, num_files=1)) == label


def test_no_headers_give_no_dtype() -> None:
    assert stored_dtype_label(None) is None
