from __future__ import annotations

from typing import Any

import torch

from vramplan.program.device_kind import DeviceKind
from vramplan.program.fake import fake_device

DEVICE = DeviceKind(compute_capability=80, num_sms=108, cublas_workspace_bytes=4096)


def _record(function: Any) -> list[int]:
    with fake_device(DEVICE) as recorder:
        keep = function()
        recorder.close()
    del keep
    return recorder.events


def test_tensors_appear_and_die_as_python_has_them() -> None:
    def run() -> Any:
        a = torch.zeros(256)  # 1,024 B
        b = a + 1
        c = b.view(16, 16)  # no memory of its own
        del b
        c = c * 2
        return a, c

    assert _record(run) == [1024, 1024, 1024, -2]


def test_gradients_of_two_uses_are_summed_in_place() -> None:
    def run() -> Any:
        x = torch.zeros(256, requires_grad=True)
        y = x * 2
        (y.sin() + y.cos()).sum().backward()
        return x

    events = _record(run)
    sized = [event for event in events if event > 0 and event == 1024]
    # x; y, sin, cos, sum of both; gradients: cos y, its product, sin y, its negative product (two), times two
    plain = _allocations_of_plain_run()
    assert len(sized) == plain


def _allocations_of_plain_run() -> int:
    """The same on real tensors, counted by torch's profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        x = torch.zeros(256, requires_grad=True)
        y = x * 2
        (y.sin() + y.cos()).sum().backward()
    del y
    return sum(1 for event in profiler.events() if event.name == "[memory]" and event.cpu_memory_usage == 1024) or sum(
        1
        for event in profiler.profiler.kineto_results.events()
        if event.name() == "[memory]" and event.nbytes() == 1024
    )


def test_two_threads_have_a_cublas_workspace_each() -> None:
    def run() -> Any:
        weight = torch.zeros((8, 8), requires_grad=True)
        for _ in range(3):
            (torch.zeros((8, 8)) @ weight).sum().backward()
        return weight

    assert _record(run).count(4096) == 2


def test_what_lives_on_the_host_is_not_recorded() -> None:
    with fake_device(DEVICE) as recorder:
        with recorder.on_host():
            host = torch.zeros(1024)
        device = torch.zeros(512)
        recorder.close()
    assert recorder.events == [2048]
    del host, device


def test_labels_change_nothing_and_say_where(tiny: dict[str, Any], make_run: Any) -> None:
    from vramplan.program.oracle import trace

    run = make_run(attention="eager", checkpointing=True)
    bare, labelled = trace(tiny, run), trace(tiny, run, with_labels=True)
    assert labelled.events == bare.events
    assert len(labelled.labels) == sum(1 for event in bare.events if event > 0) == len(labelled.owners)
    embedding = next(label for label in labelled.labels if label.operation == "embedding.default")
    assert embedding.module.endswith("embed_tokens")
    assert embedding.source.startswith("modeling_llama.py:")
    assert embedding.shape == (2, 64, 128)
    assert embedding.dtype == "bfloat16"
