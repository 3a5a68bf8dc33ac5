"""A run's settings from a file of any tool that is known: which tool, which files, and what they describe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vramplan.errors import UsageError
from vramplan.runfiles.flat import FlatRun, parse_flat
from vramplan.runfiles.hydra import Composition, compose, root_of
from vramplan.runfiles.interpolation import resolve
from vramplan.runfiles.json_tree import json_tree, toml_tree
from vramplan.runfiles.launch_run import ACCELERATE_FIELDS, launch_run, launch_values
from vramplan.runfiles.rlt_run import rlt_run, unread_of
from vramplan.runfiles.runfile import RunFile, Tool, Written
from vramplan.runfiles.text_file import read_text
from vramplan.runfiles.tree import Cell, Tree, find, flatten
from vramplan.runfiles.trl_names import GRPO_ONLY, KNOWN, MODEL_CONFIG, TRAINING_ARGUMENTS, words
from vramplan.runfiles.trl_run import trl_run
from vramplan.runfiles.yaml_tree import yaml_tree

SUFFIXES = (".yaml", ".yml", ".json", ".toml", ".sh", ".bash", ".txt", ".slurm")
FOLDER_FILES = ("train.yaml", "config.yaml", "cfgs/train.yaml")
"""What a folder is read as, the first that is there: a Hydra tree's primary config, or a run's own."""

# Keys that only RLT's tree has, or that Hydra's composition leaves.
_RLT = words(
    "defaults generation_aggregation_steps student_model trainer_args use_vllm_server offload_untrained_models "
    "model_args use_reference_teacher_model disable_student_offloading backprop_accumulation_steps "
    "answer_log_prob_coeff kl_penalty_reward_coeff"
)
_ABOUT = frozenset({"description", "source", "notes", "claims"})


def read_run_file(path: Path, *, tool: Tool | None = None) -> RunFile:
    """The settings of a file, and the run they describe.

    Args:
        path: a YAML, JSON or TOML file, a script that holds a training command, or a folder with one of them.
        tool: whose file it is; by default its content says.

    Raises:
        UsageError: it cannot be read, is of no known tool, or a setting is of the wrong kind.
    """
    path = _file_in(path) if path.is_dir() else path
    text = read_text(path)
    if path.suffix == ".toml":
        return _own(toml_tree(text, path), path, tool)
    if path.suffix == ".json":
        return read_tree(json_tree(text, path), path, tool)
    if path.suffix in (".yaml", ".yml"):
        return read_tree(yaml_tree(text, path), path, tool)
    if path.suffix in SUFFIXES or text.startswith("#!"):
        from vramplan.runfiles.command import read_script

        return read_script(text, path)
    raise UsageError(f"{path} is no run file", hint=f"run files end in {', '.join(SUFFIXES)}")


def read_tree(tree: Tree, path: Path, tool: Tool | None = None) -> RunFile:
    """A YAML or JSON file's settings, already parsed.

    Raises:
        UsageError: as `read_run_file`.
    """
    tool = tool or tool_of(tree, path)
    if tool is Tool.RLT:
        return read_rlt(path)
    if tool is Tool.OWN:
        return _own(tree, path, tool)
    written = flatten(tree)
    if tool in (Tool.TRL, Tool.TRAINING_ARGUMENTS):
        beside = deepspeed_beside(tree, "deepspeed", path)
        return RunFile(
            tool=tool,
            path=path,
            written=dict(beside) | written,
            flat=with_launch(trl_run(written), beside),
            unread=unknown(written, KNOWN),
        )
    beside = deepspeed_beside(tree, "deepspeed_config.deepspeed_config_file", path)
    return RunFile(
        tool=tool,
        path=path,
        written=dict(beside) | written,
        flat=launch_run(dict(beside) | written),
        unread=unknown(written, ACCELERATE_FIELDS) if tool is Tool.ACCELERATE else (),
    )


def tool_of(tree: Tree, path: Path) -> Tool:
    """Whose keys these are.

    Raises:
        UsageError: nobody's.
    """
    keys = frozenset(tree)
    if keys >= {"model_type", "architectures"}:
        raise UsageError(f"{path} is a model's config, not a run's", hint=f"name it as the model: MODEL {path}")
    if keys & {"compute_environment", "distributed_type"}:
        return Tool.ACCELERATE
    if keys & {"zero_optimization", "train_micro_batch_size_per_gpu"}:
        return Tool.DEEPSPEED
    if keys & _RLT or ("train_batch_size" in keys and keys & KNOWN):
        return Tool.RLT
    if path.suffix == ".json" and not keys & (GRPO_ONLY | MODEL_CONFIG) and keys & TRAINING_ARGUMENTS:
        return Tool.TRAINING_ARGUMENTS
    if keys & KNOWN:
        return Tool.TRL
    raise UsageError(
        f"{path} has no setting of a tool that is known",
        hint="RLT, TRL, TrainingArguments, accelerate, DeepSpeed and vramplan's own TOML are read",
    )


def read_rlt(path: Path) -> RunFile:
    """A run of RLT's, composed from the tree that its file lies in; else what the file alone says.

    Raises:
        UsageError: as `read_run_file`.
    """
    place = root_of(path)
    if place is not None:
        root, primary, group = place
        return rlt_file(compose(root, primary, {group: path.stem}, named=path), path)
    alone = compose(path.resolve().parent, path, named=path)
    # Without its primary config, what a file overrides is not to be found; that is no mistake of the file's.
    trainer = next((one.value for one in alone.unread if one.key.startswith("override trainer_cfg")), None)
    return rlt_file(Composition(tree=alone.tree), path, trainer=None if trainer is None else str(trainer))


def rlt_file(composed: Composition, path: Path, *, trainer: str | None = None) -> RunFile:
    """The run of a composed configuration.

    Args:
        composed: the configuration.
        path: the file that was named.
        trainer: the trainer_cfg that it asks for, where that was not there to compose.

    Raises:
        UsageError: a setting is of the wrong kind, or refers to itself.
    """
    composed.tree.pop("hydra", None)
    resolve(composed.tree)
    written = flatten(composed.tree)
    unread = (*composed.unread, *unread_of(written))
    return RunFile(tool=Tool.RLT, path=path, written=written, flat=rlt_run(written, trainer=trainer), unread=unread)


def with_launch(run: FlatRun, launch: Mapping[str, Written]) -> FlatRun:
    """A run under what its launcher says; the trainer's own settings win, as they fill DeepSpeed's `auto`."""
    values: dict[str, Any] = launch_values(launch) if launch else {}
    values.pop("batch_size", None)  # DeepSpeed's train_batch_size must equal what the trainer's own settings give
    return FlatRun(**(values | run.given()))


def deepspeed_beside(tree: Tree, key: str, path: Path) -> dict[str, Written]:
    """The settings of the DeepSpeed configuration that a file names or holds; none where it is not beside it.

    Raises:
        UsageError: it is there, and is no JSON.
    """
    node = find(tree, key)
    if isinstance(node, dict):
        return flatten(node)
    if node is None or not isinstance(node.value, str) or not node.value:
        return {}
    named = Path(node.value).expanduser()
    for candidate in (named, path.parent / named, path.parent / named.name):
        if candidate.is_file():
            return flatten(json_tree(read_text(candidate), candidate))
    return {}


def unknown(written: Mapping[str, Written], known: Iterable[str]) -> tuple[Written, ...]:
    """The settings whose first word is not among these."""
    names = frozenset(known)
    return tuple(one for key, one in written.items() if key.split(".")[0] not in names)


def _own(tree: Tree, path: Path, tool: Tool | None) -> RunFile:
    if tool not in (None, Tool.OWN):
        raise UsageError(f"{path} is TOML, which {tool.value} does not read", hint="only vramplan's own runs are TOML")
    settings = {key: node for key, node in tree.items() if key not in _ABOUT}
    flat = parse_flat({key: _plain(node) for key, node in settings.items()}, str(path))
    return RunFile(tool=Tool.OWN, path=path, written=flatten(tree), flat=flat, unread=())


def _plain(node: Tree | Cell) -> object:
    return {key: _plain(child) for key, child in node.items()} if isinstance(node, dict) else node.value


def _file_in(folder: Path) -> Path:
    for name in FOLDER_FILES:
        if (folder / name).is_file():
            return folder / name
    found = sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml", ".json", ".toml"))
    if len(found) == 1:
        return found[0]
    raise UsageError(
        f"{folder} is a folder with {len(found) or 'no'} run files", hint="name the file in it that describes the run"
    )
