"""The command and the file that start a run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from vramplan.core.run import Method
from vramplan.planner.resolve import method_of
from vramplan.runfiles.flat import FlatRun
from vramplan.runfiles.runfile import Tool
from vramplan.runfiles.writer import write_run_file

_SHORT = {"architecture": "as"}


def tool_of_run(flat: FlatRun) -> Tool:
    """Whose files such a run is usually written in."""
    method = method_of(flat)
    if method is Method.RLT:
        return Tool.RLT
    return Tool.TRL if method.trains else Tool.OWN


def file_text(flat: FlatRun) -> str | None:
    """The file that trains a run, None where nothing trains."""
    tool = tool_of_run(flat)
    return None if tool is Tool.OWN else write_run_file(flat, tool).text


def estimate_command(flat: FlatRun) -> str:
    """`vramplan estimate …` with every setting of a run as a flag."""
    parts = ["vramplan", "estimate"]
    values = flat.to_dict()
    values.pop("run", None)  # its settings are all here
    model = values.pop("model", None)
    if model is not None:
        parts.append(str(model))
    for key, value in values.items():
        flag = f"--{_SHORT.get(key, key).replace('_', '-')}"
        if isinstance(value, bool):
            parts.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, Mapping):
            parts += [flag, ",".join(f"{name}={version}" for name, version in value.items())]
        elif isinstance(value, list):
            parts += [flag, ",".join(value) or "none"]
        else:
            parts += [flag, str(value)]
    return shlex.join(parts)
