"""What each live tensor of a trace is, in the report's words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from vramplan.core.report import Component
from vramplan.program.trace import FakeTrace, Label, rounded

_OWNERS = {
    "weights": Component.WEIGHTS,
    "adapters": Component.ADAPTERS,
    "gradients": Component.GRADIENTS,
    "optimizer": Component.OPTIMIZER,
    "autocast": Component.AUTOCAST,
    "checkpoints": Component.CHECKPOINTS,
    "kv_cache": Component.KV_CACHE,
}
_ATTENTION_SOURCES = ("kernels_attention.py", "sdpa.py", "sdpa_attention.py", "flash_package.py", "masking_utils.py")
_DEQUANTIZERS = ("dequantize_4bit", "dequantize_blockwise")


def component_of(owner: str, label: Label, vocabulary_sizes: frozenset[int]) -> Component:
    """The component of one tensor.

    Args:
        owner: what the program said it is, or "".
        label: where it was made.
        vocabulary_sizes: of the run's models: only logits and what comes of them are that wide.
    """
    if owner in _OWNERS:
        return _OWNERS[owner]
    if label.operation.startswith("kernel: cuBLAS"):
        return Component.WORKSPACE
    if label.shape and label.shape[-1] in vocabulary_sizes:
        return Component.LOGITS
    if any(name in label.operation for name in _DEQUANTIZERS) or label.source.startswith("bitsandbytes_kernels.py"):
        return Component.DEQUANTIZED if len(label.shape) == 2 else Component.ACTIVATIONS
    scores = len(label.shape) == 4 and min(label.shape[-2:]) > 1 and label.shape[-1] == label.shape[-2]
    if scores or label.source.startswith(_ATTENTION_SOURCES):
        return Component.ATTENTION
    return Component.ACTIVATIONS


def live_components(
    trace: FakeTrace, serials: Iterable[tuple[int, int]], vocabulary_sizes: frozenset[int]
) -> Counter[Component]:
    """Rounded bytes per component.

    Args:
        trace: with labels and owners.
        serials: (serial, bytes asked for) of what is alive.
        vocabulary_sizes: as in `component_of`.
    """
    totals: Counter[Component] = Counter()
    for serial, num_bytes in serials:
        component = component_of(trace.owners[serial], trace.labels[serial], vocabulary_sizes)
        totals[component] += rounded(num_bytes)
    return totals
