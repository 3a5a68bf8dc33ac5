"""FlatRun: the settings of a run as flat keys, as flags, `--jsonl` lines and run profiles give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any

from vramplan.core.quick import dataclass
from vramplan.errors import UsageError
from vramplan.runfiles.flat_keys import ALIASES, KINDS, SWITCHED_OFF, SWITCHES

# A setting that says something for all replaces what was said before for one: `--8bit` over a profile with
# `teacher_quantization`, `--context` over one with `max_prompt_length`.
_COVERS = {
    "quantization": ("teacher_quantization", "student_quantization", "reference_quantization"),
    "context": ("max_prompt_length", "max_completion_length", "max_seq_length"),
    "gpu": ("gpu_mem",),
}
_LORA = ("lora_r", "lora_target_modules", "adapter_dtype")


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatRun:
    """Settings of a run, None where nothing was given. DESIGN.md, "The command line", says what each means.

    Args:
        reference: a model, or `none`.
        architecture: the flag `--as`: read the config as this `model_type`.
        stack: package name to version; `{}` means "what is installed, else the newest known".
        gpu_mem: bytes.
    """

    model: str | None = None
    run: str | None = None
    teacher: str | None = None
    student: str | None = None
    reference: str | None = None
    architecture: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    teacher_quantization: str | None = None
    student_quantization: str | None = None
    reference_quantization: str | None = None
    double_quant: bool | None = None
    kbit_fp32_upcast: bool | None = None
    method: str | None = None
    tuning: str | None = None
    lora_r: int | None = None
    lora_target_modules: tuple[str, ...] | None = None
    adapter_dtype: str | None = None
    mixed_precision: str | None = None
    gradient_accumulation_steps: int | None = None
    optim: str | None = None
    gradient_checkpointing: bool | None = None
    attn_implementation: str | None = None
    batch_size: int | None = None
    per_device_batch_size: int | None = None
    generations: int | None = None
    context: int | None = None
    max_prompt_length: int | None = None
    max_completion_length: int | None = None
    max_seq_length: int | None = None
    rollout: str | None = None
    vllm_gpu_memory_utilization: float | None = None
    vllm_sleep: bool | None = None
    vllm_max_model_length: int | None = None
    num_gpus: int | None = None
    sharding: str | None = None
    offload: tuple[str, ...] | None = None
    beta: float | None = None
    stack: Mapping[str, str] | None = field(default=None, hash=False)
    gpu: str | None = None
    gpu_mem: int | None = None

    def __post_init__(self) -> None:
        for key, value in self.given().items():
            # gpu_mem is bytes here, and a bare number would be read as GB.
            if _read(key, f"{value}B" if key == "gpu_mem" else value, key) != value:
                raise UsageError(f"{key} must be {KINDS[key].expected}, not {value!r}")

    def given(self) -> dict[str, Any]:
        """The settings that were given, as fields hold them."""
        values = ((item.name, getattr(self, item.name)) for item in fields(self))
        return {key: value for key, value in values if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """The settings that were given, as JSON and TOML hold them: `parse_flat(run.to_dict(), "") == run`."""
        return {key: KINDS[key].write(value) for key, value in self.given().items()}

    def merged(self, over: FlatRun) -> FlatRun:
        """These settings with `over`'s on top.

        A general setting in `over` also replaces particular ones here (`context` the three lengths, `quantization`
        the roles' own, `gpu` the `gpu_mem`; `tuning: full` the adapters' settings).
        """
        top = over.given()
        covered = {part for key, parts in _COVERS.items() if key in top for part in parts}
        if over.tuning == "full":
            covered.update(_LORA)
        base = {key: value for key, value in self.given().items() if key not in covered}
        return FlatRun(**(base | top))


def parse_flat(mapping: Mapping[str, object], where: str) -> FlatRun:
    """Settings from typed values, strictly.

    Args:
        mapping: keys with `_` or `-`, in our spelling or in TRL's, transformers' or peft's. A null is not given.
        where: the file and line to name in messages, or "".

    Raises:
        UsageError: a key is unknown or given twice, a value is of the wrong type or out of range, or two disagree.
    """
    return _parse(mapping, f"{where}: " if where else "", "", from_text=False)


def parse_flat_flags(mapping: Mapping[str, str | bool | None]) -> FlatRun:
    """Settings from the flags of a command line, by flag name without its dashes; messages say `--batch-size`.

    Raises:
        UsageError: as `parse_flat`.
    """
    return _parse(mapping, "", "--", from_text=True)


def _parse(mapping: Mapping[str, object], prefix: str, mark: str, *, from_text: bool) -> FlatRun:
    values: dict[str, Any] = {}
    asked: dict[str, str] = {}
    switches: dict[str, bool] = {}
    for spelled, value in mapping.items():
        name, shown = spelled.replace("-", "_"), f"{mark}{spelled}"
        key = _known(name, shown, prefix)
        if value is None:
            continue
        if name in SWITCHES:
            switches[name], asked[name] = _read_switch(value, f"{prefix}{shown}", from_text=from_text), shown
            continue
        if key in values:
            raise UsageError(f"{prefix}{asked[key]} and {shown} are the same setting", hint="give one of them")
        values[key] = _read(key, value, f"{prefix}{shown}", from_text=from_text)
        asked[key] = shown
    _apply_switches(values, switches, asked, prefix)
    return FlatRun(**values)


def _known(name: str, spelled: str, prefix: str) -> str:
    key = ALIASES.get(name, name)
    if key not in KINDS and key not in SWITCHES:
        names = [*KINDS, *ALIASES, *SWITCHES]
        raise UsageError(f"{prefix}{spelled!r} is not a setting of a run", hint=_nearest(name, names, "settings"))
    return key


def _read(key: str, value: object, named: str, *, from_text: bool = False) -> Any:
    kind = KINDS[key]
    try:
        return kind.read_text(value) if from_text and isinstance(value, str) else kind.read(value)
    except (ValueError, OverflowError) as error:
        hint = _nearest(value, kind.known, "") if isinstance(value, str) and kind.known else None
        raise UsageError(f"{named} must be {kind.expected}, not {value!r}", hint=hint) from error


def _read_switch(value: object, named: str, *, from_text: bool) -> bool:
    if from_text and isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise UsageError(f"{named} must be true or false, not {value!r}")
    return value


def _apply_switches(values: dict[str, Any], switches: dict[str, bool], asked: dict[str, str], prefix: str) -> None:
    """Turn `load_in_8bit: true` and its like into the setting that it stands for."""
    for name, on in switches.items():
        key, meant, agreeing = SWITCHES[name]
        if on and key in values and values[key] not in agreeing:
            asks = f"{asked[key]} and {asked[name]} ask for different things ({values[key]} and {meant})"
            raise UsageError(f"{prefix}{asks}", hint="give one of them")
        if on and key not in values:
            values[key], asked[key] = meant, asked[name]
    for name, on in switches.items():
        key, _, agreeing = SWITCHES[name]
        if not on and values.get(key) in agreeing:
            denial = f"{asked[key]} asks for {values[key]} and {asked[name]} denies it"
            raise UsageError(f"{prefix}{denial}", hint="give one of them")
        values.setdefault(key, SWITCHED_OFF[key])


def _nearest(name: str, known: list[str] | tuple[str, ...], what: str) -> str | None:
    import difflib

    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    if near:
        return f"the nearest is {near[0]}"
    return f"`vramplan estimate --help` lists the {what}" if what else None
