"""RunFile: the settings of another tool's files, each with the place it was written at, and the run they describe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from vramplan.runfiles.flat import FlatRun


class Tool(str, Enum):
    """Whose file it is."""

    RLT = "rlt"  # SakanaAI/RLT's Hydra configuration, composed
    TRL = "trl"  # TRL's YAML or command line (SFTConfig, DPOConfig, GRPOConfig with ModelConfig)
    TRAINING_ARGUMENTS = "training-arguments"  # transformers' TrainingArguments as JSON
    ACCELERATE = "accelerate"  # an accelerate launch configuration
    DEEPSPEED = "deepspeed"  # a DeepSpeed JSON configuration
    OWN = "vramplan"  # our own run TOML


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a setting is written.

    Args:
        file: the file, as it was named.
        line: its line from 1 on, or None where the format has none (a command line, a default).
    """

    file: Path
    line: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One setting of a file.

    Args:
        key: its dotted path in the composed configuration, in the file's own spelling.
        value: its value after interpolation; `MISSING` values (`???`) are None.
        place: where it stands.
    """

    key: str
    value: object
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFile:
    """What one or several files of a tool say of a run.

    Args:
        tool: whose they are.
        path: the file that was named.
        written: every setting by its dotted key, the winning one where several files give it.
        flat: the run as flags have it; only what the files say, never a default of ours.
        unread: keys that mean something to the tool and nothing to memory are not here; these are keys that the tool
            itself would not know.
    """

    tool: Tool
    path: Path
    written: Mapping[str, Written]
    flat: FlatRun
    unread: tuple[Written, ...]

    def get(self, key: str) -> Written | None:
        """The setting of that dotted key, or None."""
        return self.written.get(key)
