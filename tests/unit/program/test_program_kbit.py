"""Casts before training on a quantised model: the real modules take, to the byte, what the formulas say."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("bitsandbytes")

from agreement import Case, real_trace, setting_of

from vramplan.core.run import Method
from vramplan.formula.weights import store_model
from vramplan.program.trace import rounded

MODELS = ("llama", "qwen2", "opt", "gpt2", "falcon-7b", "phi")


@lru_cache
def real_bytes(case: Case) -> int:
    """Rounded bytes of what is alive when the model has been loaded."""
    recorded = real_trace(case)
    (_, _, end), *_ = recorded.spans()
    return sum(rounded(size) for _, size in recorded.serials_at(end - 1))


def formula_bytes(case: Case) -> int:
    setting = setting_of(case)
    role = setting.run.trained
    return sum(one.allocated_bytes for one in store_model(setting.models[role.name], role.load, setting.stack))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("casts", ["nf4-kbit", "nf4-kbit-back", "nf4-norms-back", "int8-norms"])
def test_the_casts_change_as_many_bytes(model: str, casts: str) -> None:
    plain = Case(model=model, method=Method.SCORE, precision=casts.split("-")[0])
    cast = replace(plain, precision=casts)
    assert real_bytes(cast) - real_bytes(plain) == formula_bytes(cast) - formula_bytes(plain)
