"""Settings on top of settings: a flag over a profile, a line over the flags."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramplan.runfiles.flat import FlatRun

RUNS = st.fixed_dictionaries(
    {},
    optional={
        "quantization": st.sampled_from(["none", "int8", "nf4"]),
        "teacher_quantization": st.sampled_from(["int8", "nf4"]),
        "context": st.integers(1, 9),
        "max_prompt_length": st.integers(1, 9),
        "tuning": st.sampled_from(["full", "lora"]),
        "lora_r": st.integers(1, 9),
        "gpu": st.just("t4"),
        "gpu_mem": st.integers(1, 9),
        "stack": st.just({"trl": "0.14.0"}),
    },
).map(lambda given: FlatRun(**given))


@given(RUNS)
def test_nothing_on_top_or_below_changes_nothing(run: FlatRun) -> None:
    assert run.merged(FlatRun()) == run
    assert FlatRun().merged(run) == run


@given(RUNS, RUNS)
def test_what_is_on_top_holds(below: FlatRun, top: FlatRun) -> None:
    merged = below.merged(top)
    assert {key: value for key, value in merged.given().items() if key in top.given()} == top.given()
    assert set(merged.given()) <= set(below.given()) | set(top.given())


@given(RUNS, RUNS)
def test_merging_twice_is_merging_once(below: FlatRun, top: FlatRun) -> None:
    assert below.merged(top).merged(top) == below.merged(top)


@pytest.mark.parametrize(
    ("below", "top", "merged"),
    [
        ({"teacher_quantization": "int8"}, {"quantization": "nf4"}, {"quantization": "nf4"}),
        (
            {"quantization": "nf4"},
            {"teacher_quantization": "int8"},
            {"quantization": "nf4", "teacher_quantization": "int8"},
        ),
        ({"max_prompt_length": 512, "max_completion_length": 64}, {"context": 8192}, {"context": 8192}),
        ({"context": 8192}, {"max_prompt_length": 512}, {"context": 8192, "max_prompt_length": 512}),
        ({"gpu_mem": 85}, {"gpu": "t4"}, {"gpu": "t4"}),
        ({"gpu": "t4"}, {"gpu_mem": 85}, {"gpu": "t4", "gpu_mem": 85}),
        ({"tuning": "lora", "lora_r": 8}, {"tuning": "full"}, {"tuning": "full"}),
        ({"stack": {"trl": "0.14.0"}}, {"stack": {}}, {"stack": {}}),
    ],
)
def test_the_general_replaces_the_particular(
    below: dict[str, object], top: dict[str, object], merged: dict[str, object]
) -> None:
    assert FlatRun(**below).merged(FlatRun(**top)) == FlatRun(**merged)  # type: ignore[arg-type]
