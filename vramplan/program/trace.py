"""What a traced run did to the allocator: a flat list of allocations and frees, with the phases marked in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

BLOCK_BYTES = 512  # kMinBlockSize in c10/cuda/CUDACachingAllocator.cpp: every request is rounded up to it


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """Where an allocation came from.

    Args:
        operation: the ATen operator, or `kernel: …` for what a CUDA kernel allocates inside one.
        module: path of the innermost module whose code ran, or the autograd node in a backward, or "".
        source: `file.py:line` of the nearest library line, or "".
        shape: of the tensor, empty where only bytes are known.
        dtype: of the tensor, as torch prints it without `torch.`, or "".
    """

    operation: str
    module: str
    source: str
    shape: tuple[int, ...]
    dtype: str


_UNKNOWN = Label(operation="", module="", source="", shape=(), dtype="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """`count` tensors of one origin and size that are alive at one moment."""

    num_bytes: int
    count: int
    label: Label

    @property
    def total_bytes(self) -> int:
        """Bytes of all of them, rounded as the allocator rounds."""
        return rounded(self.num_bytes) * self.count


def rounded(num_bytes: int) -> int:
    """Bytes that the caching allocator hands out for a request."""
    return -(-num_bytes // BLOCK_BYTES) * BLOCK_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeTrace:
    """Allocations and frees of one run, in order.

    Args:
        events: `+n` allocates n bytes, as asked for, under the next serial; `-(k + 1)` frees serial k.
        marks: (phase, index into `events` where it begins), in order; a phase may come again.
        labels: per serial where it was allocated; empty unless asked for.
        owners: per serial what it is, where that is known: `weights`, `adapters`, `gradients`, `kv_cache`, … or "".
        empties_before: phases at whose beginning the run calls `torch.cuda.empty_cache()`.
    """

    events: list[int]
    marks: list[tuple[str, int]]
    labels: list[Label] = field(default_factory=list)
    owners: list[str] = field(default_factory=list)
    empties_before: frozenset[str] = frozenset()

    def spans(self) -> Iterator[tuple[str, int, int]]:
        """Each marked phase as (name, first event, one past the last event)."""
        for position, (name, begin) in enumerate(self.marks):
            end = self.marks[position + 1][1] if position + 1 < len(self.marks) else len(self.events)
            yield name, begin, end

    def empties_cache_at(self, mark: str) -> bool:
        """Whether the run empties the allocator's cache where this phase begins."""
        return mark.split(".")[0] in self.empties_before

    def peaks(self) -> list[tuple[str, int]]:
        """Peak allocated bytes of each marked phase, what was alive at its beginning included, in order."""
        sizes: list[int] = []
        found: list[tuple[str, int]] = []
        live = 0
        for name, begin, end in self.spans():
            peak = live
            for index in range(begin, end):
                event = self.events[index]
                if event > 0:
                    sizes.append(rounded(event))
                    live += sizes[-1]
                    peak = max(peak, live)
                else:
                    live -= sizes[-event - 1]
            found.append((name, peak))
        return found

    def peak_allocated_bytes(self, *phases: str) -> int:
        """The highest `torch.cuda.max_memory_allocated` in the named phases (all when none is named).

        A name also stands for its numbered repetitions: `forward` for `forward.2`.

        Raises:
            KeyError: no such phase in the trace.
        """
        peaks = [peak for name, peak in self.peaks() if not phases or name.split(".")[0] in phases or name in phases]
        if not peaks:
            raise KeyError(f"no phase named {' or '.join(phases)} in the trace")
        return max(peaks)

    def peak_index(self, *phases: str) -> int:
        """Index of the event at which the named phases are at their highest."""
        wanted = self.peak_allocated_bytes(*phases)
        for _name, begin, end in self.spans():
            if not phases or _name.split(".")[0] in phases or _name in phases:
                for index, live in self._walk(begin, end):
                    if live == wanted:
                        return index
        return 0

    def serials_at(self, index: int) -> Iterator[tuple[int, int]]:
        """Serial and size of everything alive just after event `index`."""
        alive: dict[int, int] = {}
        serial = 0
        for event in self.events[: index + 1]:
            if event > 0:
                alive[serial] = event
                serial += 1
            else:
                del alive[-event - 1]
        return iter(alive.items())

    def label_of(self, serial: int) -> Label:
        """Where an allocation came from; what it is stands for a module that is not known."""
        label = self.labels[serial] if self.labels else _UNKNOWN
        owner = self.owners[serial] if self.owners else ""
        return replace(label, module=owner) if owner and not label.module else label

    def live_at(self, index: int) -> list[Live]:
        """What is alive just after event `index`, grouped by origin and size, largest first."""
        groups = Counter((size, self.label_of(serial)) for serial, size in self.serials_at(index))
        lives = [Live(num_bytes=size, count=count, label=label) for (size, label), count in groups.items()]
        return sorted(lives, key=lambda live: -live.total_bytes)

    def _walk(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        sizes: list[int] = []
        live = 0
        for index in range(end):
            event = self.events[index]
            if event > 0:
                sizes.append(rounded(event))
                live += sizes[-1]
            else:
                live -= sizes[-event - 1]
            if index >= begin:
                yield index, live
