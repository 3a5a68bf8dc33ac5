"""The order of calls: a setting goes in, phases with their entries come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vramplan.core.report import Basis, Component, Entry, Phase
from vramplan.core.run import Method
from vramplan.formula.kinds import kind_of
from vramplan.formula.kv_cache import kv_cache_bytes
from vramplan.formula.outside import engine_entries, fragmentation_entry
from vramplan.formula.phases import PhasePlan
from vramplan.formula.reserved import Reserved, reserve
from vramplan.formula.segments import Amounts
from vramplan.formula.setting import Setting
from vramplan.formula.static import Static, kept_outputs_bytes

DYNAMIC_SOURCE = "vramplan/formula: PyTorch's autograd rules on the modules of transformers and peft"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Phases in the order they happen."""

    phases: tuple[Phase, ...]

    @property
    def peak(self) -> Phase:
        """The phase with the most device memory; of equal ones the one that needs most by itself."""
        own = {phase.name: _own_bytes(phase) for phase in self.phases}
        return max(self.phases, key=lambda phase: (phase.device_used_bytes, own[phase.name]))

    @property
    def neediest(self) -> Phase:
        """The phase that needs most by itself: segments that other phases left cached do not count."""
        return max(
            self.phases,
            key=_own_bytes,
        )


def _own_bytes(phase: Phase) -> int:
    return phase.device_used_bytes - phase.component_bytes(Component.FRAGMENTATION)


def estimate(setting: Setting) -> Estimate:
    """Every phase of a run, with what is alive in it at its highest point."""
    kind = kind_of(setting)
    static, plans = kind.static, kind.phases(setting)
    reserved = reserve(setting, static, plans)
    phases = [_load_phase(setting, static, reserved)]
    phases += [_phase(setting, static, plan, reserved) for plan in plans]
    if setting.run.training is not None:
        phases.append(_optimizer_phase(setting, static, plans, reserved))
    # RLT empties the cache between phases, so there each phase is its own.
    return Estimate(phases=tuple(phases) if setting.run.method is Method.RLT else settle(phases))


def settle(phases: Sequence[Phase]) -> tuple[Phase, ...]:
    """Give the deciding phase what the allocator still holds of later ones: from the second cycle on it has it too."""
    deciding = Estimate(phases=tuple(phases)).neediest
    missing = max(phase.reserved_bytes for phase in phases) - deciding.reserved_bytes
    return tuple(_with_cached(phase, missing) if phase is deciding and missing > 0 else phase for phase in phases)


def _with_cached(phase: Phase, num_bytes: int) -> Phase:
    entries = tuple(
        replace(entry, num_bytes=entry.num_bytes + num_bytes) if entry.component is Component.FRAGMENTATION else entry
        for entry in phase.entries
    )
    return replace(phase, entries=entries)


def _load_phase(setting: Setting, static: Static, reserved: Reserved) -> Phase:
    entries = [*static.weight_entries(None), *_adapter_entries(static)]
    entries.append(
        Entry(
            component=Component.DEQUANTIZED,
            label="the largest weight while it is quantised",
            num_bytes=reserved.load_temporary_bytes,
            basis=Basis.MODELLED,
            formula="one 16-bit matrix beside its quantised copy",
            source="transformers integrations/bitsandbytes.py: each weight reaches the device in 16 bits first",
        )
    )
    return _finished("load", entries, setting, reserved, engine=False)


def _phase(setting: Setting, static: Static, plan: PhasePlan, reserved: Reserved) -> Phase:
    entries = _resident_entries(static, plan)
    if plan.passes:
        entries += static.gathered_entries(plan.role, generates=plan.name == "rollout")
    highest: Amounts = {}
    for one in plan.passes:
        level = one.level({})
        if level.peak_bytes > sum(highest.values()):
            highest = level.peak
    entries += [_dynamic_entry(component, num_bytes, setting, plan) for component, num_bytes in highest.items()]
    return _finished(plan.name, entries, setting, reserved, engine=plan.engine_awake)


def _optimizer_phase(setting: Setting, static: Static, plans: tuple[PhasePlan, ...], reserved: Reserved) -> Phase:
    train = plans[-1]
    entries = [entry for entry in _resident_entries(static, train) if entry.component is not Component.GRADIENTS]
    entries.append(_gradient_entry(static))
    kept_bytes = kept_outputs_bytes(setting)
    if kept_bytes:
        entries.append(
            Entry(
                component=Component.LOGITS,
                label="the loop's outputs",
                num_bytes=kept_bytes,
                basis=Basis.MODELLED,
                formula="logits of every token, and keys where the model returns them",
                source="a plain loop holds the model's outputs until the next forward returns",
            )
        )
    if static.step_bytes:
        entries.append(
            Entry(
                component=Component.OPTIMIZER,
                label="temporaries of the step",
                num_bytes=static.step_bytes,
                basis=Basis.MODELLED,
                formula="square roots of all second moments at once (foreach)",
                source="torch optim/adam.py _multi_tensor_adam",
            )
        )
    return _finished("optimizer", entries, setting, reserved, engine=train.engine_awake)


def _resident_entries(static: Static, plan: PhasePlan) -> list[Entry]:
    entries = [*static.weight_entries(plan.role), *_adapter_entries(static)]
    if static.states_bytes:
        optimizer = static.setting.optimizer
        assert optimizer is not None
        entries.append(
            Entry(
                component=Component.OPTIMIZER,
                label="states",
                num_bytes=static.states_bytes,
                basis=Basis.EXACT,
                formula=f"{_trainable_text(static)}: {optimizer.description}; from the second step on",
                source="torch optim/adam.py; bitsandbytes optim/optimizer.py; transformers optimization.py",
            )
        )
    if plan.gradients_alive:
        entries.append(_gradient_entry(static))
    (size, count), *_ = static.workspace_sizes
    entries.append(
        Entry(
            component=Component.WORKSPACE,
            label="cuBLAS",
            num_bytes=size * count,
            basis=Basis.MEASURED,
            formula=f"{count} × {size:,} B, one for each thread",
            source="PyTorch CublasHandlePool.cpp getChosenWorkspaceSize",
        )
    )
    return entries


def _adapter_entries(static: Static) -> list[Entry]:
    if not static.trains_adapters:
        return []
    return [
        Entry(
            component=Component.ADAPTERS,
            label="LoRA",
            num_bytes=static.adapters_bytes,
            basis=Basis.EXACT,
            formula=_trainable_text(static),
            source="peft tuners/lora/layer.py: r × in and out × r for each target",
        )
    ]


def _gradient_entry(static: Static) -> Entry:
    return Entry(
        component=Component.GRADIENTS,
        label="of everything that trains",
        num_bytes=static.gradients_bytes,
        basis=Basis.EXACT,
        formula=_trainable_text(static),
        source="torch AccumulateGrad: a gradient has its parameter's dtype",
    )


def _trainable_text(static: Static) -> str:
    trainables = static.setting.trainables
    elements = sum(parameter.numel * parameter.count for parameter in trainables)
    dtypes = sorted({parameter.dtype.label for parameter in trainables})
    return f"{elements:,} elements of {' and '.join(dtypes)}"


def _dynamic_entry(component: str, num_bytes: int, setting: Setting, plan: PhasePlan) -> Entry:
    return Entry(
        component=Component(component),
        label=plan.role.name,
        num_bytes=num_bytes,
        basis=Basis.MODELLED,
        formula=_dynamic_formula(component, num_bytes, setting, plan),
        source=DYNAMIC_SOURCE,
    )


def _dynamic_formula(component: str, num_bytes: int, setting: Setting, plan: PhasePlan) -> str:
    """The factors of a component; where ops of many kinds add up, its share for each token."""
    model = setting.models[plan.role.name]
    tokens, layers = plan.rows * setting.run.sizes.sequence_length, len(model.layers)
    if component == "logits":
        each = num_bytes / (tokens * model.vocab_size)
        return f"{tokens:,} tokens × {model.vocab_size:,} entries × {each:.2f} B"
    if component == "checkpoints":
        each = num_bytes / (layers * tokens * model.hidden_size)
        return f"{layers} layers × {tokens:,} tokens × {model.hidden_size:,} × {each:.2f} B"
    if component == "kv_cache":
        dtype = plan.role.load.dtype
        token_bytes = kv_cache_bytes(model, setting.stack, rows=1, tokens=1, dtype=dtype)
        return f"{num_bytes / token_bytes:,.0f} cached tokens × {token_bytes:,} B, keys and values of {layers} layers"
    if component == "dequantized":
        return "the widest weight while it multiplies, in 16 bits"
    return f"{tokens:,} tokens × {num_bytes / tokens:,.1f} B at the peak"


def _finished(name: str, entries: list[Entry], setting: Setting, reserved: Reserved, *, engine: bool) -> Phase:
    """Add what torch's tensors do not show: fragmentation, the engine's share, the context."""
    entries = [entry for entry in entries if entry.num_bytes]
    entries.append(fragmentation_entry(reserved.fragmentation_bytes(name)))
    entries += engine_entries(setting.run.rollout, setting.gpu, awake=engine)
    entries.append(
        Entry(
            component=Component.CONTEXT,
            label=setting.gpu.label,
            num_bytes=setting.gpu.context_bytes,
            basis=Basis.MEASURED if setting.gpu.context_basis == "measured" else Basis.MODELLED,
            formula="device memory of the process less what torch reserves",
            source=setting.gpu.context_source,
        )
    )
    return Phase(name=name, entries=tuple(entries))
