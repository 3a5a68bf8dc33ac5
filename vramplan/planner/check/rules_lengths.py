"""Tokens: what vLLM, the prefill and a truncated row can hold."""

from __future__ import annotations

from collections.abc import Iterator

from vramplan.catalog.stacks import parse_version
from vramplan.planner.check.finding import Problem, Severity
from vramplan.planner.check.rule import Rule
from vramplan.planner.check.subject import Subject
from vramplan.runfiles.runfile import Written

LONG_CONTEXT_TOKENS = 4096
"""From here on, rows without checkpointing hold more activations than most models hold weights."""

_ENGINE_KEYS = ("vllm_max_model_length", "vllm_max_model_len", "trainer_args.vllm_max_model_len")


def _uses_engine(subject: Subject) -> bool:
    return subject.rolls_out and subject.flat.rollout in ("vllm-colocate", "vllm-server")


def _engine_length(subject: Subject) -> Iterator[Problem]:
    length, needed = subject.flat.vllm_max_model_length, subject.prompt_and_completion
    at = subject.written(*_ENGINE_KEYS)
    if length is None or at is None or not _uses_engine(subject):
        return
    if needed is not None and length < needed:
        prompt, completion = _lengths(subject)
        yield Problem(
            at=at,
            message=f"{length} tokens in vLLM are fewer than prompt {prompt} + completion {completion} = {needed}: "
            "it counts both",
            hint=f"use {needed}",
            fixed=str(needed),
        )
    elif needed is None and subject.flat.max_completion_length is not None:
        completion = subject.flat.max_completion_length
        if length <= completion:
            yield Problem(
                at=at,
                message=f"{length} tokens in vLLM leave no prompt beside a completion of {completion}: it counts both",
                hint="use the longest prompt of the data plus the completion",
            )


def _lengths(subject: Subject) -> tuple[int | None, int | None]:
    flat = subject.flat
    return flat.max_prompt_length or flat.context, flat.max_completion_length or flat.context


def _prefill(subject: Subject) -> Iterator[Problem]:
    prompt, _ = _lengths(subject)
    if prompt is None or not _uses_engine(subject):
        return
    length, at = subject.flat.vllm_max_model_length, subject.written(*_ENGINE_KEYS)
    if length is not None and at is not None and prompt >= length:
        yield Problem(
            at=at,
            message=f"a prompt of {prompt} tokens fills vLLM's {length}: the prefill cannot hold one token more",
            hint=f"use more than {prompt}, completions counted",
            fixed=str(subject.prompt_and_completion) if subject.prompt_and_completion else None,
        )
    tokens_at = _ending(subject, "max_num_batched_tokens")
    tokens = None if tokens_at is None else tokens_at.value
    if tokens_at is None or not isinstance(tokens, int) or isinstance(tokens, bool) or tokens >= prompt:
        return
    chunked = _ending(subject, "enable_chunked_prefill")
    by_default = parse_version(subject.stack.versions["vllm"]) >= (0, 8)
    if by_default if chunked is None else chunked.value is True:
        return
    yield Problem(
        at=tokens_at,
        message=f"a prefill of {prompt} tokens does not go into {tokens} batched tokens without chunked prefill",
        hint=f"use at least {prompt}, or enable_chunked_prefill: true",
        fixed=str(prompt),
    )


def _ending(subject: Subject, name: str) -> Written | None:
    """The setting whose dotted key ends in a name, with or without TRL's `vllm_` before it."""
    for key, one in subject.file.written.items():
        if key.rpartition(".")[2] in (name, f"vllm_{name}") and one.value is not None:
            return one
    return None


def _cut_rows(subject: Subject) -> Iterator[Problem]:
    at, length = subject.written("max_length", "max_seq_length"), subject.count("max_length", "max_seq_length")
    prompt, completion = subject.count("max_prompt_length"), subject.count("max_completion_length")
    if subject.flat.method != "dpo" or at is None or length is None or prompt is None or completion is None:
        return
    needed = prompt + completion
    if length < needed:
        yield Problem(
            at=at,
            message=f"rows are cut at {length} tokens, and prompt {prompt} + completion {completion} are {needed}",
            hint=f"use {needed}, or shorter prompts and completions",
            fixed=str(needed),
        )


def _no_checkpoints(subject: Subject) -> Iterator[Problem]:
    flat = subject.flat
    at = subject.place_of("gradient_checkpointing")
    tokens = flat.max_seq_length or subject.prompt_and_completion or 0
    if flat.gradient_checkpointing is not False or at is None or not subject.trains or tokens < LONG_CONTEXT_TOKENS:
        return
    yield Problem(
        at=at,
        message=f"every layer keeps its activations of rows of {tokens} tokens until the backward",
        hint="use true: one layer's input is kept instead, and its inside is computed again",
        fixed="true",
    )


LENGTH_RULES = (
    Rule(
        id="VP006",
        title="vLLM's length below prompt + completion",
        why="vLLM's max_model_len counts the prompt and what is generated after it. Completions stop where it is full, "
        "long before max_completion_length, and long prompts are refused.",
        source="vLLM max_model_len: model context length, prompt and output; RLT trainers/grpo.py 504-515 passes it on",
        wrong="max_prompt_length: 6144\nmax_completion_length: 6144\nvllm_max_model_len: 6144",
        right="max_prompt_length: 6144\nmax_completion_length: 6144\nvllm_max_model_len: 12288",
        check=_engine_length,
    ),
    Rule(
        id="VP044",
        title="tokens that the prefill cannot hold",
        why="A prompt that fills max_model_len leaves no place for a token to generate, and vLLM refuses it. Without "
        "chunked prefill, max_num_batched_tokens has to hold a whole prompt.",
        source="vLLM scheduler: max_num_batched_tokens smaller than max_model_len limits the prompt where chunked "
        "prefill is off (its default before 0.8); a prompt has to be shorter than max_model_len",
        wrong="max_prompt_length: 8192\nvllm_max_model_len: 8192",
        right="max_prompt_length: 8192\nmax_completion_length: 8192\nvllm_max_model_len: 16384",
        check=_prefill,
    ),
    Rule(
        id="VP045",
        title="rows cut shorter than prompt + completion",
        why="DPO cuts every row at max_length: what the two other lengths promise is never seen, and the memory is "
        "that of max_length.",
        source="TRL DPOConfig.max_length: maximum length of the full sequence, prompt and completion",
        wrong="max_length: 1024\nmax_prompt_length: 1024\nmax_completion_length: 1024",
        right="max_length: 2048\nmax_prompt_length: 1024\nmax_completion_length: 1024",
        severity=Severity.WARNING,
        check=_cut_rows,
    ),
    Rule(
        id="VP046",
        title="no gradient checkpointing at long context",
        why=f"From {LONG_CONTEXT_TOKENS:,} tokens a row, activations of all layers outgrow the weights of most models. "
        "Checkpointing keeps one input a layer and computes the rest again.",
        source="research/training-memory.md §3.4: checkpoints are layers × rows × tokens × hidden, the rest is one "
        "layer; TRL turns it on by default from 0.22 on",
        wrong="gradient_checkpointing: false\nmax_completion_length: 8192",
        right="gradient_checkpointing: true\nmax_completion_length: 8192",
        severity=Severity.WARNING,
        check=_no_checkpoints,
    ),
)
