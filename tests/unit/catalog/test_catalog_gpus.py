"""GPU profiles: what ships is complete, sourced and true to real captures; what is wrong is told with its line."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path

import pytest

from vramplan.catalog import ProfileDirs, find_gpu, load_gpu
from vramplan.catalog.dirs import shipped_profiles
from vramplan.core.device import (
    CUBLAS_WORKSPACE_BYTES,
    LARGE_CUBLAS_WORKSPACE_BYTES,
    Gpu,
    default_cublas_workspace_bytes,
    modelled_context_bytes,
)
from vramplan.errors import UsageError
from vramplan.units import GiB, MiB

SHIPPED = ProfileDirs(shipped=shipped_profiles())
NAMES = SHIPPED.names("gpus")

GOOD = """\
label = "NVIDIA Thing"
aliases = ["thing-16gb"]

[memory]
total = "16384MiB"
source = "nvidia-smi"

[torch]
total = "15.5GiB"
source = "torch"

[chip]
compute_capability = "8.6"
multiprocessors = 40
source = "deviceQuery"
"""


def _write(folder: Path, text: str) -> ProfileDirs:
    (folder / "gpus").mkdir(exist_ok=True)
    (folder / "gpus" / "thing.toml").write_text(text, encoding="utf-8")
    return ProfileDirs(shipped=folder)


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_profile_is_complete(name: str) -> None:
    gpu = load_gpu(name, SHIPPED)
    assert gpu.name == name
    assert gpu.torch_total_bytes is not None
    assert 0.93 < gpu.torch_total_bytes / gpu.total_bytes <= 1
    for source in (gpu.total_source, gpu.torch_total_source, gpu.chip_source, gpu.context_source):
        assert source
    assert gpu.context_bytes < 0.05 * gpu.total_bytes


def test_the_cards_people_ask_for_ship() -> None:
    asked = {"t4", "v100-32gb", "a10g", "l4", "l40s", "rtx-3090", "rtx-4090", "rtx-5090", "rtx-a6000", "a100-40gb"}
    asked |= {"a100-80gb", "h20", "h100-80gb", "h100-nvl", "h200", "b200", "gb10", "rtx-pro-6000", "rtx-6000-ada"}
    assert asked <= set(NAMES)


def test_what_is_measured_is_kept_to_the_byte() -> None:
    t4 = load_gpu("t4", SHIPPED)
    assert (t4.context_bytes, t4.context_basis) == (147_718_144, "measured")  # 140.875 MiB
    assert load_gpu("h100-80gb", SHIPPED).total_bytes == 81_559 * MiB


@pytest.mark.parametrize("name", [name for name in NAMES if load_gpu(name, SHIPPED).context_basis == "measured"])
def test_the_context_model_is_near_every_measurement(name: str) -> None:
    gpu = load_gpu(name, SHIPPED)
    modelled = modelled_context_bytes(gpu.compute_capability, gpu.num_multiprocessors)
    assert modelled is not None
    # A misfit of 45 MiB is 0.4 % of the smallest card it happens on.
    assert abs(modelled - gpu.context_bytes) <= 45 * MiB


def test_a_card_with_more_multiprocessors_has_the_larger_context() -> None:
    contexts = [modelled_context_bytes((8, 6), count) for count in (28, 82, 84)]
    assert contexts == [106 * MiB, 312 * MiB, 319 * MiB]
    assert modelled_context_bytes((6, 1), 28) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("t4", CUBLAS_WORKSPACE_BYTES),
        ("a100-80gb", CUBLAS_WORKSPACE_BYTES),
        ("rtx-4090", CUBLAS_WORKSPACE_BYTES),
        ("h100-80gb", LARGE_CUBLAS_WORKSPACE_BYTES),
        ("b200", LARGE_CUBLAS_WORKSPACE_BYTES),
        ("gb10", LARGE_CUBLAS_WORKSPACE_BYTES),
    ],
)
def test_the_workspace_follows_the_architecture(name: str, expected: int) -> None:
    assert load_gpu(name, SHIPPED).cublas_workspace_bytes == expected


def test_the_two_workspaces_are_pytorchs() -> None:
    assert default_cublas_workspace_bytes((8, 0)) == 8_519_680
    assert default_cublas_workspace_bytes((9, 0)) == 33_554_432


@pytest.mark.parametrize(
    ("capture", "name"),
    [
        ("linux-x86_64__nvidia-h100-80gb-hbm3__590.48.01.txt", "h100-80gb"),
        ("linux-x86_64__nvidia-h200__590.48.01.txt", "h200"),
        ("linux-x86_64__nvidia-l40s__595.80.txt", "l40s"),
    ],
)
def test_totals_are_those_of_real_drivers(shared: Path, capture: str, name: str) -> None:
    text = (shared / "nvidia-smi" / "captures" / capture).read_text(encoding="utf-8")
    memory = text[text.index("FB Memory Usage") :]
    total, reserved = (int(re.search(rf"{key}\s*: (\d+) MiB", memory)[1]) for key in ("Total", "Reserved"))
    label = re.search(r"Product Name\s*: (.+)", text)[1].strip()
    gpu = load_gpu(label, SHIPPED)
    assert gpu.name == name
    assert gpu.total_bytes == total * MiB
    assert gpu.torch_total_bytes == (total - reserved) * MiB


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-80gb"),
        ("nvidia a100-sxm4-80gb", "a100-80gb"),
        ("rtx_4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 3090", "rtx-3090"),
        ("Tesla T4", "t4"),
        ("dgx-spark", "gb10"),
    ],
)
def test_a_card_is_found_by_its_other_names(given: str, name: str) -> None:
    assert load_gpu(given, SHIPPED).name == name


def test_no_two_cards_share_a_name() -> None:
    gpus = [load_gpu(name, SHIPPED) for name in NAMES]
    names = list(chain.from_iterable((gpu.name, gpu.label, *gpu.aliases) for gpu in gpus))
    assert len(names) == len(set(names))


def test_an_ambiguous_name_is_not_guessed() -> None:
    with pytest.raises(UsageError) as caught:
        load_gpu("h100", SHIPPED)
    assert caught.value.hint is not None
    assert "h100-80gb and h100-nvl" in caught.value.hint


def test_a_profile_of_ones_own_is_read_and_its_context_modelled(tmp_path: Path) -> None:
    gpu = load_gpu("thing-16gb", _write(tmp_path, GOOD))
    assert (gpu.total_bytes, gpu.usable_bytes) == (16 * GiB, 31 * GiB // 2)
    assert (gpu.context_bytes, gpu.context_basis) == (152 * MiB, "modelled")
    assert "vramplan/core/device.py" in gpu.context_source


def test_a_measured_context_counts_before_the_model(tmp_path: Path) -> None:
    text = GOOD + '\n[context]\nmeasured = "201.5MiB"\nsource = "here"\n'
    gpu = load_gpu("thing", _write(tmp_path, text))
    assert (gpu.context_bytes, gpu.context_basis, gpu.context_source) == (201 * MiB + MiB // 2, "measured", "here")


def test_without_a_torch_total_the_drivers_counts(tmp_path: Path) -> None:
    text = GOOD.replace('[torch]\ntotal = "15.5GiB"\nsource = "torch"\n\n', "")
    gpu = load_gpu("thing", _write(tmp_path, text))
    assert gpu.torch_total_bytes is None
    assert gpu.usable_bytes == gpu.total_bytes


def test_a_card_is_read_from_a_path(tmp_path: Path) -> None:
    path = _write(tmp_path, GOOD).shipped / "gpus" / "thing.toml"
    found = find_gpu(str(path), SHIPPED)
    assert (found.path, found.name) == (path, "thing")
    with pytest.raises(UsageError, match="there is no file"):
        find_gpu(str(tmp_path / "other.toml"), SHIPPED)


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ('label = "NVIDIA Thing"', "label = ", 1, "invalid value"),
        ('[memory]\ntotal = "16384MiB"', '[memory\ntotal = "16384MiB"', 4, "expected"),
        ("multiprocessors = 40", "multiprocesors = 40", 12, "chip.multiprocessors is missing"),
        ("multiprocessors = 40", "multiprocessors = 40\nmultiprocessor = 40", 15, "is not a known key"),
        ("multiprocessors = 40", "multiprocessors = -1", 14, "above zero"),
        ("multiprocessors = 40", "multiprocessors = true", 14, "above zero"),
        ('total = "16384MiB"', 'total = "16384"', 5, "has no unit"),
        ('total = "16384MiB"', 'total = "16384MiX"', 5, "unknown unit"),
        ('total = "16384MiB"', "total = 16384", 5, "is not a text"),
        ('source = "nvidia-smi"\n', "", 4, "memory.source is missing"),
        ('source = "nvidia-smi"', 'source = " "', 6, "memory.source is not a text"),
        ('aliases = ["thing-16gb"]', "aliases = [1]", 2, "is not a list of texts"),
        ('aliases = ["thing-16gb"]', 'alias = "x"', 2, "alias is not a known key"),
        ('compute_capability = "8.6"', 'compute_capability = "sm_86"', 13, 'as in "9.0"'),
        ('compute_capability = "8.6"', 'compute_capability = "6.1"', 1, "6.1 is not known"),
        ("[torch]", "[tortch]", 8, "tortch is not a known key"),
        ('total = "15.5GiB"', 'total = "17GiB"', 1, "torch sees"),
        ("[memory]", "[[memory]]", 4, "memory is not a table"),
    ],
)
def test_a_mistake_is_told_with_its_file_and_line(tmp_path: Path, old: str, new: str, line: int, says: str) -> None:
    assert GOOD.count(old) == 1
    dirs = _write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(UsageError, match=re.escape(says)) as caught:
        load_gpu("thing", dirs)
    assert f"thing.toml, line {line}: " in caught.value.message


def test_an_unknown_key_gets_the_nearest_known_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_gpu("thing", _write(tmp_path, GOOD.replace("aliases", "aliasses")))
    assert caught.value.hint == "the nearest is aliases"


def test_a_file_that_is_not_text_is_told(tmp_path: Path) -> None:
    dirs = _write(tmp_path, "")
    (tmp_path / "gpus" / "thing.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not UTF-8 text"):
        load_gpu("thing", dirs)


def test_a_gpu_that_cannot_be_is_refused() -> None:
    values = {
        "name": "x",
        "label": "X",
        "total_bytes": GiB,
        "total_source": "s",
        "compute_capability": (9, 0),
        "num_multiprocessors": 1,
        "chip_source": "s",
        "context_bytes": MiB,
        "context_basis": "measured",
        "context_source": "s",
        "cublas_workspace_bytes": 1,
    }
    assert Gpu(**values).usable_bytes == GiB
    for change in (
        {"total_bytes": 0},
        {"context_bytes": GiB},
        {"torch_total_bytes": 2 * GiB, "torch_total_source": "s"},
        {"torch_total_bytes": MiB * 512},
    ):
        with pytest.raises(ValueError, match="x"):
            Gpu(**{**values, **change})
