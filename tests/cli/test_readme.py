"""The README shows what the program prints."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_first_command_prints_what_the_readme_shows(vramplan: Callable[..., Any]) -> None:
    shown = re.search(r"<!-- estimate -->\n```\n(.*?)\n```\n<!-- /estimate -->", README.read_text("utf-8"), re.DOTALL)
    assert shown is not None
    printed = "\n".join(line.rstrip() for line in vramplan("estimate", "--gpu-mem", "85").out.strip("\n").splitlines())
    assert printed == shown[1], "run python benchmarks/readme.py"


def test_the_readme_says_whether_there_are_records() -> None:
    records = README.parent / "profiles" / "measurements"
    shown = re.search(r"<!-- records -->\n(.*?)\n<!-- /records -->", README.read_text("utf-8"), re.DOTALL)
    assert shown is not None
    assert ("no record" in shown[1]) is not any(records.rglob("*.json*")), "run python benchmarks/readme.py"
