"""A card written as TOML is the same card when it is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vramplan.catalog import profile_dirs
from vramplan.catalog.gpu_file import write_gpu
from vramplan.catalog.gpus import read_gpu


@pytest.mark.parametrize("name", profile_dirs().names("gpus"))
def test_reading_undoes_writing(name: str, tmp_path: Path) -> None:
    shipped = read_gpu(profile_dirs().find("gpus", name).path)
    gpu = replace(
        shipped,
        context_bytes=shipped.context_bytes + 1,
        context_basis="measured",
        context_source='a "quoted" back\\slash, × and –',
        cublas_workspace_bytes=12345,
        training_band=(0.012, 0.1),
        band_source="records",
    )
    path = tmp_path / f"{name}.toml"
    write_gpu(gpu, path)
    assert read_gpu(path) == gpu
    plain = replace(shipped, context_basis="measured")
    write_gpu(plain, path)
    assert read_gpu(path) == plain
