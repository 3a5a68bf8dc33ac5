"""Constants of a card from records whose truth is known: it is found again, and too few records change nothing."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramplan.core.device import CUBLAS_WORKSPACE_BYTES, LARGE_CUBLAS_WORKSPACE_BYTES
from vramplan.records.calibration import Observation, Predicted, observe, why_not_observed
from vramplan.records.fit import MIN_BAND_RECORDS, MIN_RECORDS, Constants, fit
from vramplan.records.record import Record, RecordAllocator, RecordGpu, RecordPhase
from vramplan.units import MiB

GB = 10**9
BEFORE = Constants(
    context_bytes=700 * MiB,
    cublas_workspace_bytes=LARGE_CUBLAS_WORKSPACE_BYTES,
    training_band=(0.05, 0.105),
    inference_band=(0.03, 0.05),
)


def _observation(number: int = 0, *, above: int = 600 * MiB, size: int = 20 * GB, **change: Any) -> Observation:
    values: dict[str, Any] = {
        "id": f"{number:012d}",
        "gpu": "NVIDIA H100",
        "driver": "590.48.01",
        "when": f"2026-11-21T10:{number % 60:02d}:00Z",
        "is_training": True,
        "above_reserved_bytes": above,
        "bare_context_bytes": 450 * MiB,
        "allocated_bytes": size,
        "device_bytes": size + GB + above,
        "predicted": Predicted(allocated_bytes=size, reserved_bytes=size + GB, num_workspaces=2),
    }
    return Observation(**(values | change))


def _drawn(num: int, *, true_bytes: int = 611 * MiB, noise: int = 4 * MiB, seed: int = 0) -> list[Observation]:
    """Records of a card whose truth is known: noise around it, runs of any size."""
    dice = random.Random(seed)
    return [
        _observation(
            number,
            above=true_bytes + dice.randint(-noise, noise),
            size=dice.randint(GB, 70 * GB),
            is_training=bool(number % 2),
        )
        for number in range(num)
    ]


def test_the_truth_is_found_again() -> None:
    found = fit(_drawn(20), BEFORE)
    assert found.context_bytes is not None
    assert found.above_after is not None
    assert found.device_after is not None
    assert found.device_before is not None
    assert abs(found.context_bytes - 611 * MiB) < 2 * MiB
    assert found.bare_context_bytes == 450 * MiB
    assert found.is_better
    assert found.above_before.median > 80 * MiB
    assert found.above_after.median < 4 * MiB
    assert found.device_after.median < found.device_before.median
    assert found.far_off == ()
    assert found.newest == "2026-11-21T10:19:00Z"


@given(st.integers(0, 2**32), st.lists(st.integers(1, 60_000), min_size=1, max_size=4))
def test_wild_records_do_not_move_it(seed: int, wild: list[int]) -> None:
    good = _drawn(12, seed=seed)
    bad = [_observation(100 + number, above=611 * MiB + size * MiB) for number, size in enumerate(wild)]
    found = fit([*good, *bad], BEFORE)
    assert found.context_bytes is not None
    assert abs(found.context_bytes - 611 * MiB) <= 4 * MiB
    assert {one.id for one in bad if one.above_reserved_bytes > 700 * MiB} <= set(found.far_off)
    assert not {one.id for one in good} & set(found.far_off)


@pytest.mark.parametrize("num", range(1, MIN_RECORDS))
def test_too_few_records_fit_nothing(num: int) -> None:
    found = fit(_drawn(num), BEFORE)
    assert not found.is_enough
    assert not found.is_better
    assert found.cublas_workspace_bytes == BEFORE.cublas_workspace_bytes
    assert (found.training.fitted, found.inference.fitted) == (None, None)
    assert fit(_drawn(MIN_RECORDS), BEFORE).is_enough


def test_what_is_right_already_is_left() -> None:
    same = [_observation(number, above=BEFORE.context_bytes) for number in range(10)]
    assert not fit(same, BEFORE).is_better


def _of_workspace(num: int, *, off_bytes: int = 0) -> list[Observation]:
    """Runs whose two handles have the small workspace, while estimates take the large one."""
    change = 2 * (LARGE_CUBLAS_WORKSPACE_BYTES - CUBLAS_WORKSPACE_BYTES)
    return [
        _observation(number, above=BEFORE.context_bytes, allocated_bytes=20 * GB - change + off_bytes)
        for number in range(num)
    ]


def test_another_workspace_is_told_where_estimates_are_near_enough() -> None:
    found = fit(_of_workspace(8), BEFORE)
    assert found.cublas_workspace_bytes == CUBLAS_WORKSPACE_BYTES
    assert found.is_better
    # An estimate that is off by far more than a workspace says nothing of it.
    assert fit(_of_workspace(8, off_bytes=GB), BEFORE).cublas_workspace_bytes == BEFORE.cublas_workspace_bytes


def _with_errors(num: int, ratios: Iterable[float]) -> list[Observation]:
    pairs = zip(range(num), ratios, strict=False)
    return [
        _observation(number, above=GB, device_bytes=round((21 * GB + GB) * ratio), is_training=False)
        for number, ratio in pairs
    ]


def test_a_band_holds_every_record_that_was_held_out() -> None:
    ratios = [1 + (number % 21 - 8) / 1000 for number in range(MIN_BAND_RECORDS)]
    found = fit(_with_errors(MIN_BAND_RECORDS, ratios), BEFORE)
    assert found.inference.fitted is not None
    below, above = found.inference.fitted
    assert below == pytest.approx(0.008, abs=0.0011)
    assert above == pytest.approx(0.012, abs=0.0011)
    assert all(1 - below <= ratio <= 1 + above for ratio in ratios)
    assert found.training.fitted is None
    fewer = fit(_with_errors(MIN_BAND_RECORDS - 1, ratios), BEFORE)
    assert (fewer.inference.fitted, fewer.inference.num_records) == (None, MIN_BAND_RECORDS - 1)


def test_one_wild_record_is_no_band() -> None:
    good = _with_errors(MIN_BAND_RECORDS, [1.01, 0.99] * 20)
    wild = _observation(999, above=40 * GB, device_bytes=80 * GB, is_training=False)
    found = fit([*good, wild], BEFORE)
    assert found.far_off == (wild.id,)
    assert found.inference.num_records == MIN_BAND_RECORDS
    assert found.inference.fitted == pytest.approx((0.01, 0.01), abs=0.0011)


def test_a_band_as_wide_as_a_guess_is_not_taken() -> None:
    found = fit(_with_errors(MIN_BAND_RECORDS, [1.5, 0.9] * 20), BEFORE)
    assert found.inference.found == pytest.approx((0.1, 0.5), abs=0.0011)
    assert found.inference.fitted is None


@given(st.integers(MIN_BAND_RECORDS, 200))
def test_a_band_leaves_out_at_most_one_in_forty_at_each_end(num: int) -> None:
    ratios = [1 + number / 1000 for number in range(num)]
    found = fit(_with_errors(num, ratios), BEFORE).inference.found
    assert found is not None
    assert sum(ratio > 1 + found[1] for ratio in ratios) <= num / 40


def test_records_without_an_estimate_still_tell_the_context() -> None:
    found = fit([_observation(number, predicted=None) for number in range(6)], BEFORE)
    assert found.context_bytes == 600 * MiB
    assert (found.device_before, found.device_after) == (None, None)


def _record(**change: Any) -> Record:
    values: dict[str, Any] = {
        "run": {"model": "x", "method": "sft"},
        "how": "measure",
        "device": "cuda",
        "weights": "random",
        "steps": 2,
        "versions": {},
        "gpu": RecordGpu(name="NVIDIA H100", driver="590.1", baseline_used_bytes=GB, context_bytes=5),
        "allocator": RecordAllocator(conf="", backend="native"),
        "phases": (
            RecordPhase(name="load", allocated_bytes=1, reserved_bytes=2 * GB, device_used_bytes=4 * GB),
            RecordPhase(name="train", allocated_bytes=2, reserved_bytes=3 * GB, device_used_bytes=6 * GB),
            RecordPhase(name="evaluate", allocated_bytes=9, reserved_bytes=4 * GB, device_used_bytes=90 * GB),
        ),
        "outcome": "done",
        "when": "2026-11-21T10:00:00Z",
    }
    return Record(**(values | change))


def test_a_record_is_observed_in_the_phase_that_took_most() -> None:
    seen = observe(_record(), None, None)
    assert (seen.above_reserved_bytes, seen.device_bytes, seen.allocated_bytes) == (2 * GB, 5 * GB, 2)
    assert (seen.is_training, seen.bare_context_bytes, seen.predicted) == (True, 5, None)
    assert not observe(_record(steps=None), None, None).is_training


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"outcome": "killed"}, "did not end"),
        ({"device": "cpu"}, "not measured on a GPU"),
        ({"gpu": RecordGpu(name="x", driver="1")}, "held before it is not known"),
        ({"gpu": RecordGpu(name="x", baseline_used_bytes=1)}, "driver is not known"),
        ({"allocator": RecordAllocator(conf="", backend="cudaMallocAsync")}, "cudaMallocAsync"),
        ({"run": {"rollout": "vllm-colocate"}}, "vLLM"),
        (
            {"phases": (RecordPhase(name="load", allocated_bytes=1, reserved_bytes=None, device_used_bytes=2),)},
            "no phase",
        ),
    ],
)
def test_what_says_nothing_of_a_card_is_left_out(change: dict[str, Any], reason: str) -> None:
    record = _record(**change)
    assert reason in (why_not_observed(record) or "")
    with pytest.raises(ValueError, match=record.id):
        observe(record, None, None)
