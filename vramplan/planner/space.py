"""Which settings `recommend` may choose, and from which values; everything else holds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from vramplan.core.run import Method
from vramplan.errors import UsageError
from vramplan.planner.resolve import method_of
from vramplan.planner.sizes import DEFAULT_GENERATIONS, DEFAULT_LENGTHS, DEFAULT_ROWS
from vramplan.runfiles.flat import FlatRun

PRECISIONS = ("none", "int8", "nf4")
RANKS = (8, 16, 32, 64)
PER_DEVICE = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
ACCUMULATION = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256)
GENERATIONS = (2, 4, 8, 16, 32, 64)
LENGTHS = (
    256,
    512,
    1024,
    1536,
    2048,
    3072,
    4096,
    5120,
    6144,
    7168,
    8192,
    9216,
    10240,
    12288,
    14336,
    16384,
    20480,
    24576,
    32768,
)
ATTENTION = ("sdpa", "flash_attention_2")
"""Eager attention is not among them: it keeps a matrix of tokens × tokens where the others keep nothing of that size,
and is never the better of the three. `--attn-implementation eager` holds it."""

_LENGTH_KEYS = ("context", "max_prompt_length", "max_completion_length", "max_seq_length")
_PRECISION_KEYS = ("teacher_quantization", "student_quantization", "reference_quantization")
_SAID_BY = {
    "max_prompt_length": ("context",),
    "max_completion_length": ("context",),
    "max_seq_length": ("context",),
    **dict.fromkeys(_PRECISION_KEYS, ("quantization",)),
}
"""What says it where a setting itself is not given."""
_SAYS = {"quantization": _PRECISION_KEYS, "context": _LENGTH_KEYS[1:], "max_seq_length": _LENGTH_KEYS[1:3]}
"""Which particular settings are fixed with a general one."""
MOST_GENERATIONS = 64

AXES = (
    "quantization",
    *_PRECISION_KEYS,
    "tuning",
    "lora_r",
    "gradient_checkpointing",
    "attn_implementation",
    "offload",
    "rollout",
    "vllm_sleep",
    "vllm_gpu_memory_utilization",
    "per_device_batch_size",
    "gradient_accumulation_steps",
    "batch_size",
    "generations",
    *_LENGTH_KEYS,
)
"""Settings that may be free."""

HELD_UNLESS_FREED = frozenset({"rollout"})
"""Another engine is another installation: it changes only where that is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The settings that hold, and the values of those that may change.

    Args:
        base: what holds.
        method: what is done.
        precisions: role name to the ways its linear layers may be stored; `stored` is as the checkpoint has them.
        names_roles: whether a precision is given for a role by name.
        tunings: `full`, `lora`.
        ranks: of adapters.
        checkpointing: with and without.
        attention: implementations.
        offloads: sets of roles that may rest in host memory.
        rollouts: `hf`, `vllm-colocate`, `vllm-server`; empty where nothing is rolled out.
        sleeps: whether a colocated engine may sleep.
        share: vLLM's share of the card where it is given, else None: the least that holds the engine.
        per_device: rows of one forward.
        accumulation: micro-batches an update; empty where nothing trains.
        batch_size: completions an update where that is given, else None.
        generations: completions a prompt.
        lengths: (prompt, completion) tokens.
    """

    base: FlatRun
    method: Method
    precisions: Mapping[str, tuple[str, ...]]
    names_roles: bool
    tunings: tuple[str, ...]
    ranks: tuple[int, ...]
    checkpointing: tuple[bool, ...]
    attention: tuple[str, ...]
    offloads: tuple[tuple[str, ...], ...]
    rollouts: tuple[str, ...]
    sleeps: tuple[bool, ...]
    share: float | None
    per_device: tuple[int, ...]
    accumulation: tuple[int, ...]
    batch_size: int | None
    generations: tuple[int, ...]
    lengths: tuple[tuple[int, int], ...]

    @property
    def num_settings(self) -> int:
        """Candidates in all, those that a trainer refuses among them."""
        adapters = len(self.ranks) if "lora" in self.tunings else 0
        counts = [len(values) for values in self.precisions.values()]
        counts += [int("full" in self.tunings) + adapters, len(self.checkpointing), len(self.attention)]
        counts += [len(self.offloads), len(self.rollouts), len(self.sleeps), len(self.per_device)]
        counts += [len(self.accumulation), len(self.generations), len(self.lengths)]
        return prod(max(count, 1) for count in counts)


def precision_key(role: str) -> str:
    """The flat key of a role's precision; the only model of a run has the general one."""
    return "quantization" if role == "model" else f"{role}_quantization"


def space_of(
    given: FlatRun,
    profile: FlatRun,
    roles: Mapping[str, bool],
    *,
    free: Collection[str],
    fix: Collection[str],
    limit: int,
    flash_runs: bool,
    engine_sleeps: bool,
    engine_runs: bool = True,
    default_share: float | None = None,
) -> Space:
    """What may change.

    Args:
        given: the settings of the command line: they hold.
        profile: those of the run profile or file underneath: they hold where they are not an axis.
        roles: names of the models, and whether each is quantised on disk: then it loads as it is stored.
        free: axes to free although they are given.
        fix: axes to hold at what the profile, or else the trainer's default, says.
        limit: the longest row that every model takes.
        flash_runs: whether flash-attn has kernels for the card.
        engine_sleeps: whether the trainer can put a colocated engine to sleep.
        engine_runs: whether the trainer can run an engine in its own process.
        default_share: vLLM's share of the card where it is fixed and nothing says it.

    Raises:
        UsageError: an axis that is none, or one both freed and fixed.
    """
    for key in (*free, *fix):
        if key not in AXES:
            import difflib

            near = difflib.get_close_matches(key, AXES, n=1)
            raise UsageError(
                f"{key!r} is no setting that recommend chooses",
                hint=f"the nearest is {near[0]}" if near else f"it chooses {', '.join(AXES)}",
            )
    both = sorted(set(free) & set(fix))
    if both:
        raise UsageError(f"{both[0]} is both freed and fixed", hint="give one of the two")
    chooser = _Chooser(given, profile, frozenset(free), frozenset(fix))
    attention = ATTENTION if flash_runs else ATTENTION[:1]
    engines = ("hf", "vllm-colocate") if engine_runs else ("hf",)
    return chooser.space(
        roles,
        limit,
        attention=attention,
        engines=engines,
        sleeps=(False, True) if engine_sleeps else (False,),
        default_share=default_share,
    )


class _Chooser:
    """What was said of each axis."""

    def __init__(self, given: FlatRun, profile: FlatRun, free: frozenset[str], fix: frozenset[str]) -> None:
        merged = profile.merged(given).given()
        said = given.given()
        held = {key for key in said if key not in free}
        fixed = {part for key in fix for part in (key, *_SAYS.get(key, ()))}
        held |= {key for key in (*fixed, *HELD_UNLESS_FREED) if key in merged and key not in free}
        self._held = {key: merged[key] for key in held if key in merged}
        for key in fix - set(self._held):
            said_by = next((name for name in _SAID_BY.get(key, ()) if name in merged), None)
            if said_by is not None:
                self._held[key] = merged[said_by]
        self._fixed_at_default = {key for key in fix if key not in self._held}
        self._free = free
        if "vllm_max_model_length" not in said:
            merged.pop("vllm_max_model_length", None)  # it follows from the lengths, which are searched
        self._base = FlatRun(**{key: value for key, value in merged.items() if key not in AXES or key in self._held})
        self._method = method_of(self._base)

    def space(
        self,
        roles: Mapping[str, bool],
        limit: int,
        *,
        attention: tuple[str, ...],
        engines: tuple[str, ...],
        sleeps: tuple[bool, ...],
        default_share: float | None,
    ) -> Space:
        """See `Space`."""
        method, base = self._method, self._base
        trains = method.trains
        rollouts = self._rollouts(engines)
        at_default = "vllm_gpu_memory_utilization" in self._fixed_at_default
        bare = FlatRun(**{key: value for key, value in base.given().items() if key not in AXES})
        return Space(
            # 16 bits are what one chooses between 8 and 4 and full precision: fp32 only where it was asked for.
            base=bare if bare.dtype else replace(bare, dtype="bf16"),
            method=method,
            precisions={role: self._precisions(role, stored=stored) for role, stored in roles.items()},
            names_roles=any(key in self._held for key in _PRECISION_KEYS),
            tunings=self._tunings() if trains else (),
            ranks=self._values("lora_r", RANKS, 16),
            checkpointing=self._values("gradient_checkpointing", (True, False), None) if trains else (),
            attention=self._values("attn_implementation", attention, "sdpa"),
            offloads=self._offloads(roles),
            rollouts=rollouts,
            sleeps=self._values("vllm_sleep", sleeps, False) if "vllm-colocate" in rollouts else (),
            share=self._held.get("vllm_gpu_memory_utilization", default_share if at_default else None),
            per_device=self._values("per_device_batch_size", self._for_groups(PER_DEVICE, (1,)), DEFAULT_ROWS[method]),
            accumulation=self._values("gradient_accumulation_steps", self._for_groups(ACCUMULATION, (1, 2, 4)), 1)
            if trains
            else (),
            batch_size=self._held.get("batch_size"),
            generations=self._values("generations", self._generations(), DEFAULT_GENERATIONS.get(method, 1))
            if method.rolls_out
            else (1,),
            lengths=tuple(pair for pair in self._lengths() if sum(pair) <= limit) or self._shortest(limit),
        )

    def _values(self, key: str, choices: tuple[Any, ...], default: Any) -> tuple[Any, ...]:
        if key in self._held:
            return (self._held[key],)
        return (default,) if key in self._fixed_at_default else choices

    def _precisions(self, role: str, *, stored: bool) -> tuple[str, ...]:
        key = f"{role}_quantization"
        for name in (key,) if key in self._free else (key, "quantization"):
            if name in self._held:
                return (self._held[name],)
        if stored:
            return ("stored",)
        return ("none",) if {key, "quantization"} & self._fixed_at_default else PRECISIONS

    def _tunings(self) -> tuple[str, ...]:
        if "tuning" in self._held:
            return (self._held["tuning"],)
        adapters = {"lora_r", "lora_target_modules", "adapter_dtype"} & set(self._held)
        if "tuning" in self._fixed_at_default:  # as vramplan.planner.resolve: full, unless the weights are quantised
            trained = self._held.get("teacher_quantization") or self._held.get("quantization") or "none"
            return ("lora",) if adapters or trained != "none" else ("full",)
        return ("lora",) if adapters else ("full", "lora")

    def _for_groups(self, choices: tuple[int, ...], times: tuple[int, ...]) -> tuple[int, ...]:
        """The choices; with multiples of the completions a prompt where those are given and none of them is one."""
        given = self._held.get("generations")
        if given is None or not self._method.rolls_out or not all(each % given for each in choices):
            return choices
        return tuple(sorted({*choices, *(given * each for each in times)}))

    def _generations(self) -> tuple[int, ...]:
        """The usual ones, or what divides a batch that is given where none of those does."""
        rows = self._held.get("per_device_batch_size", 0) * (self._base.num_gpus or 1)
        batch = self._held.get("batch_size") or rows * self._held.get("gradient_accumulation_steps", 1)
        if not batch or not all(batch % each for each in GENERATIONS):
            return GENERATIONS
        return tuple(each for each in range(2, MOST_GENERATIONS + 1) if batch % each == 0) or GENERATIONS

    def _offloads(self, roles: Collection[str]) -> tuple[tuple[str, ...], ...]:
        if "offload" in self._held:
            return (tuple(self._held["offload"]),)
        others = [role for role in roles if role in ("student", "reference")]
        if "offload" in self._fixed_at_default or not others:
            return ((),)
        sets: list[tuple[str, ...]] = [()]
        for role in others:
            sets += [(*before, role) for before in sets]
        return tuple(sets)

    def _rollouts(self, engines: tuple[str, ...]) -> tuple[str, ...]:
        if not self._method.rolls_out:
            return ()
        if "rollout" in self._free:
            return engines
        return (self._held.get("rollout", "hf"),)

    def _lengths(self) -> tuple[tuple[int, int], ...]:
        """Prompt and completion, equal where neither is given."""
        held, method = self._held, self._method
        prompt, completion = held.get("max_prompt_length"), held.get("max_completion_length")
        if method in (Method.SFT, Method.DPO, Method.SCORE):
            length = held.get("max_seq_length") or held.get("context")
            if length is None and (prompt or completion or set(_LENGTH_KEYS) & self._fixed_at_default):
                length = (prompt or DEFAULT_LENGTHS[method][0]) + (completion or DEFAULT_LENGTHS[method][1])
            return ((length, 0),) if length else tuple((each, 0) for each in LENGTHS)
        if "context" in held:
            prompt, completion = prompt or held["context"], completion or held["context"]
        if {"context", "max_prompt_length"} & self._fixed_at_default:
            prompt = prompt or DEFAULT_LENGTHS[method][0]
        if {"context", "max_completion_length"} & self._fixed_at_default:
            completion = completion or DEFAULT_LENGTHS[method][1]
        if prompt and completion:
            return ((prompt, completion),)
        if prompt:
            return tuple((prompt, each) for each in LENGTHS)
        if completion:
            return tuple((each, completion) for each in LENGTHS)
        return tuple((each, each) for each in LENGTHS)

    def _shortest(self, limit: int) -> tuple[tuple[int, int], ...]:
        """Where no row is short enough for the model, the shortest of them: the estimate warns of it."""
        return (min(self._lengths(), key=sum),) if limit else self._lengths()
