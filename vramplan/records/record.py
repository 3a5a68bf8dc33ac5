"""Record: one measured run, complete and sealed by a hash of its content. Never edited by hand."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

SCHEMA = "vramplan.record/1"
OUTCOMES = ("done", "out_of_memory", "timed_out", "killed", "failed", "interrupted")
WEIGHTS = ("checkpoint", "random", "random-checkpoint")
ABSENT_WITHOUT = ("engine",)
"""Keys that a record has only where they say something: earlier records, sealed without them, stay as they are."""
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_ID_DIGITS = 12


def _check_sizes(item: Any) -> None:
    for one in fields(item):
        value = getattr(item, one.name)
        counts = one.name.endswith("_bytes") or one.name.startswith("num_") or one.name == "seconds"
        if counts and value is not None and value < 0:
            raise ValueError(f"{one.name} cannot be {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordGpu:
    """The card that was measured on. What nobody could read is None.

    Args:
        name: as the driver calls it; `cpu` where a test's device without a card ran.
        uuid: `GPU-…`, or None.
        profile: the name of its profile (`h100-80gb`), or None.
        total_bytes: as the driver reports it.
        torch_total_bytes: `total_memory` of torch's device properties: where allocations fail.
        driver: its version.
        compute_capability: `9.0`.
        num_multiprocessors: streaming multiprocessors.
        baseline_used_bytes: used on the card before this process had a CUDA context.
        context_bytes: what appeared when the context was made, without any tensor; libraries come later.
    """

    name: str
    uuid: str | None = None
    profile: str | None = None
    total_bytes: int | None = None
    torch_total_bytes: int | None = None
    driver: str | None = None
    compute_capability: str | None = None
    num_multiprocessors: int | None = None
    baseline_used_bytes: int | None = None
    context_bytes: int | None = None

    def __post_init__(self) -> None:
        _check_sizes(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordAllocator:
    """How torch's allocator was set.

    Args:
        conf: PYTORCH_ALLOC_CONF of the process, "" for its defaults.
        backend: `native` or `cudaMallocAsync` as torch says; `cpu` without a card.
        cublas_workspace_config: CUBLAS_WORKSPACE_CONFIG of the process, or None where it was not set.
    """

    conf: str
    backend: str
    cublas_workspace_config: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordPhase:
    """One stretch of the run. Of a phase that came several times: peaks are the highest, counts and seconds sums.

    What torch counted of a rollout engine (`RecordEngine`) is in the card's bytes, not in allocated and reserved ones.

    Args:
        name: `load`, `prefill`, `decode`, `score`, `rollout`, `reference`, `train`, `optimizer`, …, as in reports.
        allocated_bytes: peak of torch.cuda.memory_allocated in the phase.
        reserved_bytes: peak of torch.cuda.memory_reserved.
        device_used_bytes: highest used memory of the whole card that NVML showed, the baseline included.
        free_bytes: free memory of the card at the end of the phase (cudaMemGetInfo).
        end_allocated_bytes: still allocated when it ended.
        end_reserved_bytes: still reserved when it ended.
        end_device_used_bytes: used on the card when it ended, the baseline included.
        num_alloc_retries: times that the allocator had to empty its cache and try again.
        num_ooms: times that it threw.
        seconds: wall time of all its repetitions.
        num_repeats: how often the phase came.
    """

    name: str
    allocated_bytes: int | None
    reserved_bytes: int | None
    device_used_bytes: int | None
    free_bytes: int | None = None
    end_allocated_bytes: int | None = None
    end_reserved_bytes: int | None = None
    end_device_used_bytes: int | None = None
    num_alloc_retries: int | None = None
    num_ooms: int | None = None
    seconds: float | None = None
    num_repeats: int = 1

    def __post_init__(self) -> None:
        _check_sizes(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordMoment:
    """What was held at one moment: after the run, once the allocator's cache was emptied."""

    allocated_bytes: int | None
    reserved_bytes: int | None
    device_used_bytes: int | None

    def __post_init__(self) -> None:
        _check_sizes(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordOutOfMemory:
    """Where the allocator threw.

    Args:
        phase: in which phase.
        requested_bytes: what was asked for, or None where the error does not say.
        allocated_bytes: what tensors held.
        reserved_bytes: what segments held.
        snapshot: file name of a memory snapshot in the record's own folder, or None.
    """

    phase: str
    requested_bytes: int | None
    allocated_bytes: int | None
    reserved_bytes: int | None
    snapshot: str | None = None

    def __post_init__(self) -> None:
        _check_sizes(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordEngine:
    """A rollout engine in the measured process.

    Args:
        name: `vllm`.
        version: or None where nobody said.
        sleeps: whether it gave its memory back outside the rollout.
        allocated_bytes: what torch's counters held of it once it was built: weights, KV cache, buffers, graphs. Taken
            off what the phases show from then on.
        reserved_bytes: the same of its segments.
    """

    name: str
    version: str | None
    sleeps: bool
    allocated_bytes: int
    reserved_bytes: int

    def __post_init__(self) -> None:
        _check_sizes(self)

    def is_awake_in(self, phase: str) -> bool:
        """Whether it holds its memory in a phase."""
        return not self.sleeps or phase in ("load", "rollout")


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedPhase:
    """One phase of an estimate or a simulation."""

    name: str
    allocated_bytes: int
    reserved_bytes: int
    device_used_bytes: int

    def __post_init__(self) -> None:
        _check_sizes(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What an estimate or a simulation said of the run when it was measured.

    Args:
        phases: in the order they happen.
        low_bytes, high_bytes: the band around the device peak.
    """

    phases: tuple[PredictedPhase, ...]
    low_bytes: int
    high_bytes: int

    def __post_init__(self) -> None:
        _check_sizes(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One measured run.

    Args:
        run: the settings as `FlatRun.to_dict()` gives them: keys of `estimate --jsonl`.
        how: `measure` (a process of our own) or `callback` (a user's training run).
        device: `cuda`, or `cpu` where no card was used.
        weights: `checkpoint`, `random` or `random-checkpoint`.
        steps: optimizer updates that were run, None where the method has none.
        versions: of torch, cuda, transformers, peft, bitsandbytes, trl, accelerate, vllm, driver, python, vramplan;
            None for what is not there.
        gpu: the card.
        allocator: its settings.
        phases: those that were finished, in the order in which they first happen.
        after_empty_cache: what was left after the run and `torch.cuda.empty_cache()`, or None.
        outcome: one of OUTCOMES.
        stopped_in: the phase that was not finished, or None.
        message: one sentence on what went wrong, or None.
        out_of_memory: details where the outcome is that.
        engine: the rollout engine beside the run, or None; a record without one has no such key.
        estimate, simulate: what they said at the time, or None where they were not asked or could not tell.
        notes: what to know about the measurement.
        when: ISO 8601, UTC, `2026-11-21T23:42:39Z`.
    """

    run: Mapping[str, Any]
    how: str
    device: str
    weights: str
    steps: int | None
    versions: Mapping[str, str | None]
    gpu: RecordGpu
    allocator: RecordAllocator
    phases: tuple[RecordPhase, ...]
    after_empty_cache: RecordMoment | None = None
    outcome: str
    stopped_in: str | None = None
    message: str | None = None
    out_of_memory: RecordOutOfMemory | None = None
    engine: RecordEngine | None = None
    estimate: Prediction | None = None
    simulate: Prediction | None = None
    notes: tuple[str, ...] = ()
    when: str

    def __post_init__(self) -> None:
        for name, known in (
            ("how", ("measure", "callback")),
            ("device", ("cuda", "cpu")),
            ("weights", WEIGHTS),
            ("outcome", OUTCOMES),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        if (self.outcome == "out_of_memory") != (self.out_of_memory is not None):
            raise ValueError("out_of_memory comes with that outcome and with no other")
        if not _TIME.fullmatch(self.when):
            raise ValueError(f"when must be a time as 2026-11-21T23:42:39Z, not {self.when!r}")
        names = [phase.name for phase in self.phases]
        if len(set(names)) < len(names):
            raise ValueError("a phase is there twice")

    @property
    def hash(self) -> str:
        """sha256 of the content."""
        return content_hash(_content(self))

    @property
    def id(self) -> str:
        """A short name: the beginning of the hash."""
        return self.hash[:_ID_DIGITS]

    @property
    def run_key(self) -> str:
        """What was asked for, whatever came of it and whenever: a matrix skips a run whose key it has."""
        return run_key(
            self.run,
            weights=self.weights,
            conf=self.allocator.conf,
            cublas_workspace_config=self.allocator.cublas_workspace_config,
            steps=self.steps,
            device=self.device,
        )

    def phase(self, name: str) -> RecordPhase | None:
        """The phase of that name, or None."""
        return next((phase for phase in self.phases if phase.name == name), None)

    def own_device_bytes(self, phase: RecordPhase) -> int | None:
        """What the run itself took of the card in a phase: what a prediction's device_used_bytes is held against."""
        if phase.device_used_bytes is None or self.gpu.baseline_used_bytes is None:
            return None
        return max(phase.device_used_bytes - self.gpu.baseline_used_bytes, 0)

    def to_json(self) -> dict[str, Any]:
        """The record as plain values, its schema and its hash among them."""
        content = _content(self)
        return content | {"hash": content_hash(content)}


def run_key(
    run: Mapping[str, Any],
    *,
    weights: str,
    conf: str,
    cublas_workspace_config: str | None,
    steps: int | None,
    device: str,
) -> str:
    """A hash of what is asked for; the card is not part of it: records of each card lie in a folder of its own.

    Args:
        run: the settings.
        weights: where weights come from.
        conf: PYTORCH_ALLOC_CONF.
        cublas_workspace_config: CUBLAS_WORKSPACE_CONFIG, None where it is not set.
        steps: optimizer updates, None where the method has none.
        device: `cuda` or `cpu`.
    """
    asked = {
        "run": {key: value for key, value in run.items() if key not in ("gpu", "gpu_mem")},
        "weights": weights,
        "conf": conf,
        "cublas": cublas_workspace_config,
        "steps": steps,
        "device": device,
    }
    return content_hash(asked)[:_ID_DIGITS]


def content_hash(content: Mapping[str, Any]) -> str:
    """sha256 over canonical JSON: keys sorted, no blanks, ASCII."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _content(record: Record) -> dict[str, Any]:
    content: dict[str, Any] = plain(record)
    for key in ABSENT_WITHOUT:
        if content[key] is None:
            del content[key]
    return {"schema": SCHEMA, **content}


def plain(value: Any) -> Any:
    """Dataclasses as objects, tuples as lists."""
    if is_dataclass(value):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
