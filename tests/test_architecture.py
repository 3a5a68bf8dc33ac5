"""The architecture is a check: layers, heavy imports at start-up, and the size of files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "vramplan"
HEAVY = ("torch", "transformers", "pandas", "numpy", "huggingface_hub", "pynvml", "bitsandbytes", "peft", "accelerate")
MOST_LINES = 400


def test_lower_rooms_never_import_higher_ones():
    run = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c(standalone_mode=True)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("arguments", [["--gpu-mem", "85"], ["--gpu-mem", "85", "--json"]], ids=["table", "json"])
def test_an_estimate_loads_nothing_heavy(arguments):
    code = (
        "import sys, json\n"
        "from vramplan.cli.app import main\n"
        f"sys.argv = ['vramplan', 'estimate', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]), file=sys.stderr)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(run.stderr.strip().splitlines()[-1]) == []
    assert run.stdout


def test_files_stay_small():
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")
    }
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}
