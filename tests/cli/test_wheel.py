"""The wheel alone, in a clean environment, does the main job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VRAMPLAN"))}
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment with the wheel and its dependencies, and nothing of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    built = _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    assert built.returncode == 0, built.stdout + built.stderr
    assert _run(sys.executable, "-m", "venv", folder / "venv", cwd=folder).returncode == 0
    (wheel,) = folder.glob("*.whl")
    install = _run(folder / "venv/bin/python", "-m", "pip", "install", "--quiet", wheel, cwd=folder)
    if install.returncode and "onnection" in install.stderr:
        pytest.skip("no package index is reachable to install the wheel's dependencies from")
    assert install.returncode == 0, install.stderr
    return folder / "venv/bin"


def test_the_wheel_answers_the_missions_question(installed, tmp_path):
    result = _run(installed / "vramplan", "estimate", "--gpu-mem", "85", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["schema"] == "vramplan.report/1"
    assert [model["role"] for model in report["models"]] == ["teacher", "student", "reference"]
    assert {model["parameters"] for model in report["models"]} == {7_615_616_512}
    assert report["budget"]["verdict"] == "fits"


def test_the_wheel_needs_no_development_package(installed, tmp_path):
    result = _run(installed / "python", "-c", "import torch", cwd=tmp_path)
    assert result.returncode != 0
    assert _run(installed / "vramplan", "--help", cwd=tmp_path).returncode == 0
