"""What a launcher's own flags say: accelerate launch, torchrun, deepspeed, and `trl` in front of its script.

Source: accelerate 1.15 commands/launch.py, torch 2.13 distributed/run.py, trl 1.16 cli/accelerate_config.py.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from vramplan.runfiles.flags import Flags
from vramplan.runfiles.json_tree import json_tree
from vramplan.runfiles.runfile import Place
from vramplan.runfiles.shell import Command, Word
from vramplan.runfiles.text_file import read_text
from vramplan.runfiles.tree import Cell, Tree, merge, put
from vramplan.runfiles.yaml_tree import yaml_tree

# trl 1.16 accelerate_configs/*.yaml: each has num_processes 8 but single_gpu.
_SHIPPED = {
    "single_gpu": {"distributed_type": "NO", "num_processes": 1},
    "multi_gpu": {"distributed_type": "MULTI_GPU", "num_processes": 8},
    "zero1": {"distributed_type": "DEEPSPEED", "deepspeed_config.zero_stage": 1, "num_processes": 8},
    "zero2": {"distributed_type": "DEEPSPEED", "deepspeed_config.zero_stage": 2, "num_processes": 8},
    "zero3": {"distributed_type": "DEEPSPEED", "deepspeed_config.zero_stage": 3, "num_processes": 8},
    "fsdp1": {"distributed_type": "FSDP", "num_processes": 8},
    "fsdp2": {"distributed_type": "FSDP", "num_processes": 8},
}
_FLAGS = {
    "num_processes": "num_processes",
    "mixed_precision": "mixed_precision",
    "zero_stage": "deepspeed_config.zero_stage",
    "gradient_accumulation_steps": "deepspeed_config.gradient_accumulation_steps",
    "fsdp_sharding_strategy": "fsdp_config.fsdp_sharding_strategy",
}
_KINDS = {"multi_gpu": "MULTI_GPU", "use_deepspeed": "DEEPSPEED", "use_fsdp": "FSDP"}


def launch_tree(launcher: str, flags: Flags, path: Path, folder: Path) -> Tree:
    """A launcher's settings, in the spelling of accelerate's configuration file.

    Args:
        launcher: its name.
        flags: its own flags; for `trl` also the script's.
        path: the file that the command stands in.
        folder: where its files are looked for.

    Raises:
        UsageError: a configuration that it names is no YAML.
    """
    if launcher in ("torchrun", "deepspeed"):
        names = ("nproc_per_node", "num_gpus")
        return _from_flags(flags, dict.fromkeys(names, "num_processes"))
    if launcher == "trl":
        tree = _config(flags, "accelerate_config", path, folder)
        merge(tree, _from_flags(flags, {"num_processes": "num_processes"}))
        return tree
    if launcher != "accelerate":
        return {}
    tree = _config(flags, "config_file", path, folder)
    for name, kind in _KINDS.items():
        node = flags.tree.get(name)
        if isinstance(node, Cell) and node.value is True:
            tree["distributed_type"] = Cell(value=kind, place=node.place)
    merge(tree, _from_flags(flags, _FLAGS))
    return tree


def rlt_launch(words: Command, path: Path) -> tuple[Tree, Command] | None:
    """RLT's own launchers taken apart: `launch.sh N CFG …`, `launch_with_server.sh NUM_VLLM N CFG …`.

    Returns:
        The launcher's settings and the words of train.py, or None for another command. The trainer's cards run
        ZeRO-3, or ZeRO-1 after the word `zero1` (RLT launch.sh, accelerate_configs/).
    """
    at = next((index for index, word in enumerate(words) if PurePosixPath(word.text).name in _RLT_LAUNCHERS), None)
    if at is None:
        return None
    numbers = _RLT_LAUNCHERS[PurePosixPath(words[at].text).name]
    rest = words[at + 1 :]
    if len(rest) <= numbers:
        return None
    count, config, others = rest[numbers - 1], rest[numbers], rest[numbers + 1 :]
    stage = 1 if any(word.text == "zero1" for word in others) else 3
    tree: Tree = {}
    put(tree, "distributed_type", Cell(value="DEEPSPEED", place=Place(file=path, line=count.line)))
    put(tree, "deepspeed_config.zero_stage", Cell(value=stage, place=Place(file=path, line=count.line)))
    if count.text.isdigit():
        put(tree, "num_processes", Cell(value=int(count.text), place=Place(file=path, line=count.line)))
    chosen = Word(f"run_cfg@_global_={PurePosixPath(config.text).stem}", config.line)
    return tree, [chosen, *(word for word in others if "=" in word.text)]


_RLT_LAUNCHERS = {"launch.sh": 1, "launch_with_server.sh": 2}
"""Each with how many numbers it takes; the last one counts the trainer's cards."""


def _from_flags(flags: Flags, names: dict[str, str]) -> Tree:
    tree: Tree = {}
    for name, key in names.items():
        node = flags.tree.get(name)
        counted = name in ("nproc_per_node", "num_gpus")
        if isinstance(node, Cell) and not (counted and not isinstance(node.value, int)):  # `gpu`, `auto`: all there are
            put(tree, key, node)
    return tree


def _config(flags: Flags, name: str, path: Path, folder: Path) -> Tree:
    found = flags.file(name, folder)
    if found is not None:
        text = read_text(found)
        return json_tree(text, found) if found.suffix == ".json" else yaml_tree(text, found)
    tree: Tree = {}
    for key, value in _SHIPPED.get(flags.text(name) or "", {}).items():
        node = flags.tree[name]
        put(tree, key, Cell(value=value, place=node.place if isinstance(node, Cell) else Place(file=path, line=None)))
    return tree
