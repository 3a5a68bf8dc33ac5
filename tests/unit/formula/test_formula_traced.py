"""A few traced layers stand for all: unrolled events and composed segments are those of the whole model."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import agreement
import pytest
from agreement import Case, setting_of
from agreement_models import SMALL_MODELS

from vramplan.allocator.replay import replay
from vramplan.core.model import ModelShape
from vramplan.core.run import Method, Tuning
from vramplan.formula import passes
from vramplan.formula.blocks import allocated
from vramplan.formula.forward import Sampled
from vramplan.formula.layout import Layout, Piece
from vramplan.formula.phases import plan_phases
from vramplan.formula.traced import Traced

DEPTHS = {"llama": 7, "gemma3_text": 9, "deepseek_v3": 6, "gpt_oss": 6, "gpt2": 5, "falcon-7b": 5, "qwen2": 5}
CASES = [
    Case(model=model, tuning=tuning, precision=precision, attention=attention, checkpoints=checkpoints)
    for model in DEPTHS
    for tuning, precision in ((Tuning.LORA, "bf16"), (Tuning.FULL, "amp"))
    for attention in (("eager",) if model == "gpt_oss" else ("eager", "sdpa"))
    for checkpoints in (False, True)
] + [
    Case(model=model, method=method)
    for model in DEPTHS
    if model != "gpt_oss"
    for method in (Method.SCORE, Method.INFERENCE)
]


def all_layers(model: ModelShape, *, first_trained: int = 0) -> Sampled:
    assert first_trained < len(model.layers)
    return Sampled(layers=list(model.layers), stands_for=list(range(len(model.layers))))


def deepened(case: Case) -> dict[str, object]:
    config = SMALL_MODELS[case.model]
    name = "n_layer" if "n_layer" in config else "num_hidden_layers"
    deeper = {**config, name: DEPTHS[case.model]}
    if "layer_types" in config:
        kinds = config["layer_types"]
        deeper["layer_types"] = [kinds[index % len(kinds)] for index in range(DEPTHS[case.model])]
    return deeper


def traces(case: Case, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Traced, Traced]]:
    """Each pass with its sampled layers, and with every layer traced."""
    setting = setting_of(case, config=deepened(case))
    sampled = [one for plan in plan_phases(setting) for one in plan.passes]
    monkeypatch.setattr(passes, "sample", all_layers)
    return list(zip(sampled, [one for plan in plan_phases(setting) for one in plan.passes], strict=True))


def peak_of(events: list[int]) -> int:
    sizes: list[int] = []
    now = peak = 0
    for event in events:
        if event > 0:
            sizes.append(allocated(event))
            now += sizes[-1]
            peak = max(peak, now)
        else:
            now -= sizes[-1 - event]
    return peak


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.model}-{case.label}".replace(" ", "-"))
def test_sampled_layers_unroll_to_the_whole_model(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    for sampled, whole in traces(case, monkeypatch):
        assert len(whole.layout.pieces) > len(sampled.layout.pieces)
        unrolled, direct = sampled.unrolled(), list(whole.events)
        assert Counter(event for event in unrolled if event > 0) == Counter(event for event in direct if event > 0)
        assert len(unrolled) == len(direct)
        assert peak_of(unrolled) == peak_of(direct)
        ours, theirs = replay(unrolled), replay(direct)
        assert ours.peak_allocated_bytes == theirs.peak_allocated_bytes
        assert abs(ours.peak_reserved_bytes / theirs.peak_reserved_bytes - 1) < 0.02


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.model}-{case.label}".replace(" ", "-"))
def test_composed_segments_reach_what_the_whole_model_reaches(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    for sampled, whole in traces(case, monkeypatch):
        level = sampled.level({})
        assert level.peak_bytes == peak_of(list(whole.events))
        assert sum(level.peak.values()) == level.peak_bytes
        assert level.now_bytes == sampled.level({"weights": 1000}).now_bytes - 1000


EXPERTS = ("gate_proj", "up_proj", "down_proj")


@pytest.mark.parametrize("targets", [EXPERTS, ("all-linear",)], ids="-".join)
@pytest.mark.parametrize("checkpoints", [False, True])
def test_layers_before_the_first_adapter_stand_for_themselves(
    targets: tuple[str, ...], checkpoints: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Experts alone: no hidden states need a gradient in the first mixture, those of the next ones do."""
    monkeypatch.setattr(agreement, "targets_of", lambda _model: targets)
    case = Case(model="deepseek_v3", tuning=Tuning.LORA, attention="sdpa", checkpoints=checkpoints)
    for sampled, whole in traces(case, monkeypatch):
        assert peak_of(sampled.unrolled()) == peak_of(list(whole.events)) == sampled.level({}).peak_bytes


def test_every_free_of_an_unrolled_trace_frees_what_is_alive() -> None:
    for one in plan_phases(
        setting_of(Case(model="gemma3_text", tuning=Tuning.FULL, precision="amp", checkpoints=True))
    ):
        for traced in one.passes:
            alive: set[int] = set()
            serial = 0
            for event in traced.unrolled():
                if event > 0:
                    alive.add(serial)
                    serial += 1
                else:
                    alive.remove(-1 - event)


def test_pieces_cut_anywhere_compose_to_the_whole() -> None:
    (plan,) = plan_phases(setting_of(Case(model="llama", checkpoints=True)))
    traced = plan.passes[0]

    def cut_at(marks: list[int]) -> Traced:
        pieces = tuple(
            Piece(kind=f"cut {start}", layer=None, start=start, end=end) for start, end in pairwise([0, *marks])
        )
        layout = traced.layout
        return Traced(
            layout=Layout(actions=layout.actions, owners=layout.owners, pieces=pieces, stands_for=()),
            sizes=traced.sizes,
        )

    count = len(traced.layout.actions)
    direct = cut_at([count]).level({})
    assert direct.peak_bytes == peak_of(traced.events)
    for step in (1, 7, 100, 1000):
        level = cut_at([*range(step, count, step), count]).level({})
        assert level.peak_bytes == direct.peak_bytes
        assert {owner: num_bytes for owner, num_bytes in level.peak.items() if num_bytes} == {
            owner: num_bytes for owner, num_bytes in direct.peak.items() if num_bytes
        }
        assert level.now_bytes == direct.now_bytes


def test_what_is_resident_raises_a_level_and_nothing_else() -> None:
    (plan,) = plan_phases(setting_of(Case(model="llama")))
    bare, loaded = plan.passes[0].level({}), plan.passes[0].level({"weights": 1000})
    assert loaded.peak_bytes == bare.peak_bytes + 1000
    assert loaded.peak == {**bare.peak, "weights": 1000}


def test_a_trace_is_the_same_twice() -> None:
    setting = setting_of(Case(model="gpt2", checkpoints=True))
    (first,), (second,) = plan_phases(setting), plan_phases(setting)
    assert first.passes[0].events == second.passes[0].events
    assert replace(first, passes=()) == replace(second, passes=())
