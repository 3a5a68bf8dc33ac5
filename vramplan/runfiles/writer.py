"""A run's settings as a file that another tool accepts."""

from __future__ import annotations

from vramplan.errors import UsageError
from vramplan.runfiles.draft import Text
from vramplan.runfiles.flat import FlatRun
from vramplan.runfiles.runfile import Tool
from vramplan.runfiles.write_launch import write_accelerate
from vramplan.runfiles.write_rlt import write_rlt
from vramplan.runfiles.write_toml import write_toml
from vramplan.runfiles.write_trl import write_trl

WRITERS = {Tool.RLT: write_rlt, Tool.TRL: write_trl, Tool.ACCELERATE: write_accelerate, Tool.OWN: write_toml}


def write_run_file(flat: FlatRun, tool: Tool) -> Text:
    """The text of a file that the tool accepts, and the settings that it has no word for.

    Reading it gives the same run, but for `left_out` and for what the format spells in another way: the model of a
    single-model file is the teacher, `context` becomes its lengths, `batch_size` of TRL's its accumulation steps.

    Raises:
        UsageError: the tool does not train this way, or its files are read only.
    """
    if tool not in WRITERS:
        known = ", ".join(one.value for one in WRITERS)
        raise UsageError(f"{tool.value} files are read, not written", hint=f"{known} are")
    return WRITERS[tool](flat)
