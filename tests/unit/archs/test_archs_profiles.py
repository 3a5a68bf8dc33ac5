"""The shipped model profiles: facts that resolve offline, equal to transformers' models to the parameter."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from vramplan.archs import read_model
from vramplan.core.model import ModelShape, ModuleKind

FOLDER = Path(__file__).resolve().parents[3] / "profiles" / "models"
PROFILES: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))
}
# Many models share one shape: transformers builds each only once.
DISTINCT = {json.dumps(profile["config"]): stem for stem, profile in PROFILES.items()}
# The first size in a name: 7b, 8x7b, 0.5b, 125m.
SIZES_IN_NAMES = {
    stem: int(found[1] or 1) * float(found[2]) * {"b": 1e9, "m": 1e6}[found[3]]
    for stem in PROFILES
    if (found := re.search(r"-(?:(\d+)x)?([\d.]+)([bm])\b", stem.lower().replace("_", ".")))
}
each_profile = pytest.mark.parametrize("stem", PROFILES)


@each_profile
def test_says_what_it_is(stem: str) -> None:
    profile = PROFILES[stem]
    assert set(profile) == {"id", "parameters", "source", "config"}
    assert stem == profile["id"].replace("/", "__")
    assert profile["id"] in profile["source"]


@each_profile
def test_has_the_published_number_of_parameters(stem: str) -> None:
    profile = PROFILES[stem]
    assert read_model(profile["config"]).num_parameters == profile["parameters"]


@pytest.mark.parametrize(("stem", "said"), SIZES_IN_NAMES.items())
def test_is_about_as_large_as_its_name_says(stem: str, said: float) -> None:
    # 8x7b shares its attention (46.7 of 56); gemma-2b and falcon-rw-1b do not count their embeddings (2.6 of 2)
    assert 0.78 < PROFILES[stem]["parameters"] / said < 1.32


@pytest.mark.parametrize("stem", DISTINCT.values())
def test_equals_transformers_weight_by_weight(stem: str, oracle: Any) -> None:
    config = PROFILES[stem]["config"]
    shape, meta = read_model(config), oracle.build(config)
    assert oracle.weights(shape) == meta.weights
    assert meta.num_parameters == PROFILES[stem]["parameters"]
    assert [layer.attention.sliding_window for layer in shape.layers] == meta.windows
    assert shape.buffer_bytes == meta.buffer_bytes


def test_every_real_config_has_a_profile_with_its_parameters(shared: Path) -> None:
    rows = _rows(shared)
    assert len(rows) == 61
    for row in rows:
        profile = PROFILES[row["model"].replace("/", "__")]
        assert profile["parameters"] == int(row["parameters"]), row["model"]


def test_real_configs_are_counted_to_the_parameter(shared: Path) -> None:
    for row in _rows(shared):
        shape = read_model(_real_config(shared, row["model"]))
        assert shape.num_parameters == int(row["parameters"]), row["model"]


def test_what_bitsandbytes_converts_is_counted_to_the_parameter(shared: Path) -> None:
    for row in _rows(shared):
        linear = _linear_elements(read_model(_real_config(shared, row["model"])))
        assert linear == int(row["parameters_in_linear_layers_bitsandbytes_converts"]), row["model"]


def test_a_profile_has_the_shape_of_the_config_it_restates(shared: Path) -> None:
    for row in _rows(shared):
        if row["model"] == "mistralai/Mistral-7B-v0.1":
            continue  # this file lacks the sliding window of 4096 that the published config has
        profile = PROFILES[row["model"].replace("/", "__")]
        assert read_model(profile["config"]) == read_model(_real_config(shared, row["model"])), row["model"]


def _rows(shared: Path) -> list[dict[str, str]]:
    with (shared / "models" / "parameters.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _real_config(shared: Path, model: str) -> dict[str, Any]:
    path = shared / "models" / f"{model.replace('/', '__')}.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config


def _linear_elements(shape: ModelShape) -> int:
    kinds = (ModuleKind.LINEAR, ModuleKind.CONV1D)
    weights = shape.weights(fused_experts=True)
    return sum(weight.total_elements for weight in weights if weight.kind in kinds and weight.name == "weight")
