"""A trace's allocations as a timeline and as a memory snapshot, replayed through the caching allocator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from vramplan.allocator.blocks import Block
from vramplan.allocator.caching import CachingAllocator
from vramplan.allocator.config import AllocatorConfig
from vramplan.allocator.recording import Recorder
from vramplan.allocator.snapshot import Frame, Snapshot
from vramplan.program.trace import FakeTrace, Label


class Moment(NamedTuple):
    """One event and what it leaves.

    `num_bytes` is as asked for, negative for a free; `shape` is as torch prints it, `4x128`.
    """

    event: int
    phase: str
    num_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    module: str
    operation: str
    source: str
    shape: str
    dtype: str


def timeline(trace: FakeTrace, config: AllocatorConfig | None = None) -> Iterator[Moment]:
    """Each event in order, with what is allocated and reserved after it."""
    allocator = CachingAllocator(config or AllocatorConfig())
    blocks: list[Block | None] = []
    sizes: list[int] = []
    for phase, begin, end in trace.spans():
        if trace.empties_cache_at(phase):
            allocator.empty_cache()
        for index in range(begin, end):
            event = trace.events[index]
            serial = len(blocks) if event > 0 else -event - 1
            if event > 0:
                blocks.append(allocator.malloc(event))
                sizes.append(event)
            else:
                _free(allocator, blocks, serial)
            label = trace.label_of(serial)
            yield Moment(
                event=index,
                phase=phase,
                num_bytes=event if event > 0 else -sizes[serial],
                allocated_bytes=allocator.allocated_bytes,
                reserved_bytes=allocator.reserved_bytes,
                module=label.module,
                operation=label.operation,
                source=label.source,
                shape="x".join(map(str, label.shape)),
                dtype=label.dtype,
            )


def snapshot(trace: FakeTrace, config: AllocatorConfig | None = None) -> Snapshot:
    """The whole history as `torch.cuda.memory._dump_snapshot` writes it; frames name module and operator."""
    recorder = Recorder(config or AllocatorConfig())
    blocks: list[Block | None] = []
    for phase, begin, end in trace.spans():
        if trace.empties_cache_at(phase):
            recorder.empty_cache()
        for event in trace.events[begin:end]:
            if event > 0:
                blocks.append(recorder.malloc(event, frames=_frames(trace.label_of(len(blocks)))))
            else:
                _free(recorder, blocks, -event - 1)
    return recorder.snapshot()


def _frames(label: Label) -> tuple[Frame, ...]:
    file, _, line = label.source.partition(":")
    number = int(line) if line.isdigit() else 0
    frames = [Frame(name=label.operation or "?", filename=file or "??", line=number)]
    if label.module:
        frames.append(Frame(name=label.module, filename=file or "??", line=number))
    return tuple(frames)


def _free(allocator: CachingAllocator | Recorder, blocks: list[Block | None], serial: int) -> None:
    block = blocks[serial]
    if block is None:
        raise ValueError(f"serial {serial} is freed twice")
    allocator.free(block)
    blocks[serial] = None
