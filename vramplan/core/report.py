"""MemoryReport: phases × components, three totals for each phase, and a verdict against a budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import Enum

from vramplan.core.quick import dataclass


class Component(str, Enum):
    """What bytes are for. Every phase reports every one of them, most of them 0."""

    WEIGHTS = "weights"  # of every role on the device, scales of quantised ones among them
    ADAPTERS = "adapters"
    GRADIENTS = "gradients"
    OPTIMIZER = "optimizer"  # states and the temporaries of the step
    AUTOCAST = "autocast"  # 16-bit copies of fp32 weights
    CHECKPOINTS = "checkpoints"  # inputs of layers kept for recomputation
    ACTIVATIONS = "activations"  # everything else that layers keep or make
    ATTENTION = "attention"  # scores, masks, log-sum-exps, accumulators
    DEQUANTIZED = "dequantized"  # 16-bit copies of quantised weights while they multiply
    LOGITS = "logits"  # logits, log-probabilities, their gradients
    KV_CACHE = "kv_cache"
    ROLLOUT_ENGINE = "rollout_engine"  # vLLM's share of the card
    WORKSPACE = "workspace"  # of libraries, inside the allocator
    FRAGMENTATION = "fragmentation"  # segments that no tensor uses
    CONTEXT = "context"  # CUDA context and libraries outside the allocator


ALLOCATED = tuple(
    component
    for component in Component
    if component not in (Component.ROLLOUT_ENGINE, Component.FRAGMENTATION, Component.CONTEXT)
)
"""Components that `torch.cuda.max_memory_allocated` counts."""


class Basis(str, Enum):
    """How a number is known."""

    EXACT = "exact"  # counted from shapes
    MODELLED = "modelled"  # from rules of the code that runs
    MEASURED = "measured"  # a constant with a source
    MARGIN = "margin"  # chosen for safety


class Verdict(str, Enum):
    """Whether the peak is inside the budget."""

    FITS = "fits"
    UNCERTAIN = "uncertain"
    DOES_NOT_FIT = "does_not_fit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a phase.

    Args:
        component: what the bytes are for.
        label: whose or which (`teacher`, `28 layers`).
        num_bytes: how many, at the phase's peak.
        basis: how they are known.
        formula: the sum with its numbers put in, for `--explain`.
        source: where the rule or constant comes from.
    """

    component: Component
    label: str
    num_bytes: int
    basis: Basis
    formula: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One stretch of the run, at its highest point.

    Args:
        name: `load`, `prefill`, `decode`, `score`, `rollout`, `reference`, `train`, `optimizer`, …
        entries: what is alive.
    """

    name: str
    entries: tuple[Entry, ...]
    # Added up once: a report asks for them many times.
    _sums: dict[Component, int] = field(init=False, repr=False, compare=False)
    _allocated_bytes: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        sums: dict[Component, int] = {}
        for entry in self.entries:
            sums[entry.component] = sums.get(entry.component, 0) + entry.num_bytes
        object.__setattr__(self, "_sums", sums)
        allocated = sum(num_bytes for component, num_bytes in sums.items() if component in ALLOCATED)
        object.__setattr__(self, "_allocated_bytes", allocated)

    def component_bytes(self, component: Component) -> int:
        """Bytes of one component."""
        return self._sums.get(component, 0)

    @property
    def allocated_bytes(self) -> int:
        """What torch's allocator has handed out."""
        return self._allocated_bytes

    @property
    def reserved_bytes(self) -> int:
        """What torch's allocator holds in segments."""
        return self.allocated_bytes + self.component_bytes(Component.FRAGMENTATION)

    @property
    def device_used_bytes(self) -> int:
        """What the driver shows as used on the card."""
        return (
            self.reserved_bytes
            + self.component_bytes(Component.ROLLOUT_ENGINE)
            + self.component_bytes(Component.CONTEXT)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReport:
    """One role's model.

    Args:
        role: `model`, `teacher`, `student`, `reference`.
        id: the name it was asked for by.
        parameters: how many it has.
        weights_bytes: on the device as loaded in this run (0 where it shares another role's).
        by_precision: bytes in `bf16`, `int8`, `nf4` (double quantisation as in the run).
        precision: as loaded, for people: `bf16`, `int8`, `nf4 (double quant)`.
    """

    role: str
    id: str
    parameters: int
    weights_bytes: int
    by_precision: Mapping[str, int]
    precision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The highest phase.

    Args:
        phase: its name.
        component: its largest component.
        allocated_bytes, reserved_bytes, device_used_bytes: its totals.
        low_bytes, high_bytes: the band around device_used_bytes.
    """

    phase: str
    component: Component
    allocated_bytes: int
    reserved_bytes: int
    device_used_bytes: int
    low_bytes: int
    high_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What there is to spend.

    Args:
        bytes: of device memory.
        verdict: fits when even the band's top does; uncertain when the band crosses the budget.
        margin_bytes: budget less device_used_bytes (negative when it does not fit).
    """

    bytes: int
    verdict: Verdict
    margin_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something about the run that its author should know.

    Args:
        rule: its id, `VP012`.
        message: one sentence.
        hint: what to do about it.
        source: where the rule comes from.
    """

    rule: str
    message: str
    hint: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A figure that a document gives, beside the estimate's.

    Args:
        what: what it is a sum of.
        claimed_bytes: the document's figure.
        estimated_bytes: this report's.
        remark: where the difference comes from.
    """

    what: str
    claimed_bytes: int
    estimated_bytes: int
    remark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveTensors:
    """Tensors of one origin and size that are alive at one moment of a simulation.

    Args:
        num_bytes: of each.
        count: how many.
        module: path of the module whose code made them, or the autograd node, or "".
        operation: the operator that made them.
        source: `file.py:line` of the library's line, or "".
        shape: of each, empty where only bytes are known.
        dtype: as torch names it, or "".
    """

    num_bytes: int
    count: int
    module: str
    operation: str
    source: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfRoom:
    """Where an allocator of limited capacity throws `CUDA out of memory`.

    Args:
        capacity_bytes: what it may reserve.
        phase: in which phase it throws.
        requested_bytes: what is asked for there.
        allocated_bytes: what is alive then.
        reserved_bytes: what segments hold then, cached ones already given back.
        live_tensors: what holds the memory, largest first.
    """

    capacity_bytes: int
    phase: str
    requested_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    live_tensors: tuple[LiveTensors, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryReport:
    """The answer of estimate, simulate and measure.

    Args:
        how: `estimate`, `simulate` or `measure`.
        id: the run's id in a `--jsonl` stream, or None.
        inputs: the resolved run, as flat keys.
        models: each role's model.
        phases: in the order they happen.
        peak: the highest of them.
        budget: the budget and the verdict, or None.
        assumptions: what was taken for granted.
        warnings: what the author should know.
        versions: library versions that the answer holds for.
        gpu: the card's profile name, or None.
        comparisons: what documents say about this run, where its profile restates them.
        live_tensors: a simulation's largest tensors at its peak, or None.
        out_of_room: where a simulation with a given capacity fails, or None.
    """

    how: str
    id: str | None
    inputs: Mapping[str, object]
    models: tuple[ModelReport, ...]
    phases: tuple[Phase, ...]
    peak: Peak
    budget: Budget | None
    assumptions: tuple[str, ...]
    warnings: tuple[Finding, ...]
    versions: Mapping[str, str]
    gpu: str | None = None
    comparisons: tuple[Comparison, ...] = ()
    live_tensors: tuple[LiveTensors, ...] | None = None
    out_of_room: OutOfRoom | None = None

    def phase(self, name: str) -> Phase:
        """The phase of that name."""
        return next(phase for phase in self.phases if phase.name == name)
