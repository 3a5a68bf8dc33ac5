"""Writes the README's figures: the output of its first command and the accuracy tables, between their markers.

python benchmarks/readme.py [--check]
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
TRUTH = ROOT.parent / "shared" / "truth" / "runs.jsonl"
RECORDS = ROOT / "profiles" / "measurements"
COMMANDS = {
    "estimate": ["estimate", "--gpu-mem", "85"],
    "accuracy": ["accuracy", str(TRUTH), "--markdown"],
    "records": ["accuracy", str(RECORDS), "--markdown"],
    "simulated-records": ["accuracy", str(RECORDS), "--how", "simulate", "--markdown"],
}
NO_RECORD = "No card has been measured with `vramplan measure` yet: `profiles/measurements/` holds no record."


def output(name: str) -> str:
    """What the command prints, at 80 columns without colour."""
    if "records" in name and not any(RECORDS.rglob("*.json*")):
        return NO_RECORD if name == "records" else ""
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-m", "vramplan", *COMMANDS[name]],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if not result.stdout:
        raise SystemExit(result.stderr)
    lines = "\n".join(line.rstrip() for line in result.stdout.strip("\n").splitlines())
    return f"```\n{lines}\n```" if name == "estimate" else lines


def rewritten(text: str, names: list[str]) -> str:
    """The README with fresh blocks."""
    for name in names:
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", re.DOTALL)
        block = output(name)
        text, count = pattern.subn(lambda match, block=block: match[1] + block + match[2], text)
        if count != 1:
            raise SystemExit(f"the README has {count} blocks named {name}")
    return text


def main() -> int:
    """Rewrite the README, or with --check say whether it is up to date."""
    names = [name for name in COMMANDS if name != "accuracy" or TRUTH.is_file()]
    old = README.read_text()
    new = rewritten(old, names)
    if "--check" in sys.argv:
        print("up to date" if new == old else "out of date: run python benchmarks/readme.py")
        return int(new != old)
    README.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
