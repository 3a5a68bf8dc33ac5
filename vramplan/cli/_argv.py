"""Spellings of flags that people bring from elsewhere, made into ours before typer sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

# transformers, TRL, peft and RLT (DESIGN.md, "The command line").
_RENAMED = {
    "--attn": "--attn-implementation",
    "--bnb-4bit-use-double-quant": "--double-quant",
    "--load-in-4bit": "--4bit",
    "--load-in-8bit": "--8bit",
    "--lora-rank": "--lora-r",
    "--max-length": "--max-seq-length",
    "--model-name-or-path": "--model",
    "--num-generations": "--generations",
    "--per-device-train-batch-size": "--per-device-batch-size",
    "--torch-dtype": "--dtype",
    "--train-batch-size": "--batch-size",
    "--vllm-max-model-len": "--vllm-max-model-length",
}
_RENAMED |= {name.replace("--", "--no-", 1): to.replace("--", "--no-", 1) for name, to in _RENAMED.items()}

# Flags that argparse-based trainers give a word: `--load_in_8bit True`. False turns them off.
_SWITCHES = frozenset(
    {"--8bit", "--4bit", "--double-quant", "--kbit-fp32-upcast", "--gradient-checkpointing", "--vllm-sleep"}
)
_PRECISIONS = {"--bf16": "bf16", "--fp16": "fp16"}


def normalise(argv: Sequence[str]) -> list[str]:
    """Arguments with `_` in flag names made `-` and other tools' names made ours; after `--` nothing is touched.

    `--load_in_8bit True` becomes `--8bit`, `--bf16` becomes `--mixed-precision bf16`, and a switch given `false`
    becomes `--no-…`.
    """
    before, dashes, after = _split(argv)
    return [*_flags(before), *dashes, *after]


def take_flag(argv: Sequence[str], name: str) -> tuple[bool, list[str]]:
    """Whether a flag stands before any `--`, and the arguments without it."""
    before, dashes, after = _split(argv)
    return name in before, [*(arg for arg in before if arg != name), *dashes, *after]


def _split(argv: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    args = list(argv)
    if "--" not in args:
        return args, [], []
    at = args.index("--")
    return args[:at], args[at : at + 1], args[at + 1 :]


def _flags(args: list[str]) -> Iterator[str]:
    rest = iter(enumerate(args))
    for index, arg in rest:
        if not arg.startswith("--"):
            yield arg
            continue
        written, equals, value = arg.partition("=")
        name = written.replace("_", "-")
        name = _RENAMED.get(name, name)
        if name not in _SWITCHES and name not in _PRECISIONS:
            yield f"{name}{equals}{value}"
            continue
        word = value if equals else args[index + 1] if index + 1 < len(args) else ""
        is_word = word.lower() in ("true", "false")
        if is_word and not equals:
            next(rest)
        if equals and not is_word:
            yield f"{name}={value}"  # typer says what is wrong with it
        else:
            yield from _switched(name, on=word.lower() != "false" if is_word else True)


def _switched(name: str, *, on: bool) -> Iterator[str]:
    if name in _PRECISIONS:
        yield from (("--mixed-precision", _PRECISIONS[name]) if on else ())
    elif on:
        yield name
    elif name not in ("--8bit", "--4bit"):
        yield name.replace("--", "--no-", 1)
