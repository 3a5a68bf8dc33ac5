"""What torch and bitsandbytes say of themselves, in a process of their own: an import that crashes ends only that.

`python -m vramplan.program.probe torch|bitsandbytes` prints one JSON object on its last line.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def probe_torch() -> dict[str, Any]:
    """Version, the CUDA that it was built with, and whether a kernel runs on every GPU that it sees.

    `full` names the GPUs where other processes left no room for a context; that says nothing of the others.
    """
    import torch

    facts: dict[str, Any] = {
        "version": str(torch.__version__),
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "num_devices": 0,
        "full": [],
        "error": None,
    }
    if torch.version.cuda is None and torch.version.hip is None:
        return facts
    try:
        torch.cuda.init()
        facts["num_devices"] = torch.cuda.device_count()
        for index in range(facts["num_devices"]):
            try:
                # The context, and a kernel: a build without code for this chip fails only here.
                torch.ones(2, device=f"cuda:{index}").add_(1).sum().item()
            except RuntimeError as error:
                if "out of memory" not in str(error):
                    raise
                facts["full"].append(index)
    except (RuntimeError, AssertionError) as error:
        facts["error"] = _first_line(error)
    return facts


def probe_bitsandbytes() -> dict[str, Any]:
    """Version, which native library it loaded, and its own diagnosis where it loaded none."""
    import bitsandbytes
    import torch
    from bitsandbytes import cextension

    native = cextension.lib
    diagnosis = getattr(native, "error_msg", None) if type(native).__name__.startswith("ErrorHandler") else None
    facts: dict[str, Any] = {
        "version": str(bitsandbytes.__version__),
        "native": type(native).__name__,
        "compiled_with_cuda": bool(getattr(native, "compiled_with_cuda", False)),
        "error": None if diagnosis is None else _first_line(diagnosis),
    }
    if facts["error"] is None and torch.cuda.is_available():
        try:
            weight = torch.ones(64, 64, dtype=torch.bfloat16, device="cuda")
            bitsandbytes.functional.quantize_4bit(weight, quant_type="nf4")
            torch.cuda.synchronize()
        except (RuntimeError, AttributeError, NotImplementedError) as error:
            facts["error"] = _first_line(error)
    return facts


def _first_line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return next(filter(None, lines), type(error).__name__)


def main(name: str) -> None:
    """Look at one library and print what it says."""
    look = {"torch": probe_torch, "bitsandbytes": probe_bitsandbytes}[name]
    sys.stdout.write("\n" + json.dumps(look()) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
