"""What is drawn fits where it is drawn."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vramplan.cli._monitor_watch import frame, history_line, memory_bar, process_name
from vramplan.monitor.prediction import Prediction
from vramplan.monitor.run_watch import GpuView, WatchView
from vramplan.monitor.sample import Device, GpuProcess, GpuSample, Memory

GB = 10**9
sizes = st.integers(0, 200 * GB)


@given(used=sizes, reserved=sizes, total=st.integers(1, 200 * GB), width=st.integers(1, 200), mark=st.none() | sizes)
def test_a_bar_has_its_width(used, reserved, total, width, mark):
    for unicode in (True, False):
        pieces = memory_bar(min(used, total), min(reserved, total), total, width, unicode=unicode, mark=mark)
        assert len(pieces) == width
        assert all(len(text) == 1 for text, _ in pieces)


def test_a_bar_is_full_when_the_gpu_is_and_empty_when_it_is():
    def text(used, **options):
        return "".join(piece for piece, _ in memory_bar(used, 0, 10, 10, unicode=False, **options))

    assert [text(0), text(5), text(10)] == [".........." , "#####.....", "##########"]  # fmt: skip
    assert text(5, mark=8) == "#####...|."


@given(st.lists(st.none() | sizes, max_size=300), st.integers(1, 100))
def test_a_history_has_its_width_and_shows_the_last(values, width):
    for unicode in (True, False):
        assert len(history_line(values, 100 * GB, width, unicode=unicode)) == width


def test_a_history_is_on_the_capacitys_scale():
    assert history_line([0, 50, 99, 100, None], 100, 6, unicode=False) == " _+## "


@given(
    width=st.integers(10, 200),
    name=st.text(max_size=60),
    used=sizes,
    pids=st.lists(st.integers(1, 2**31), max_size=10),
    predicted=st.booleans(),
    unicode=st.booleans(),
)
def test_no_line_of_a_frame_is_wider_than_the_screen(width, name, used, pids, predicted, unicode):
    memory = Memory(total_bytes=200 * GB, used_bytes=used, free_bytes=200 * GB - used, reserved_bytes=GB)
    processes = tuple(GpuProcess(pid=pid, used_bytes=None) for pid in pids)
    device = Device(index=0, name=" ".join(name.split()))
    gpu = GpuView(device=device)
    gpu.take(
        GpuSample(
            device=device,
            status="ok",
            memory=memory,
            gpu_percent=100,
            temperature_celsius=42,
            power_milliwatts=700_000,
            processes=processes,
        )
    )
    prediction = Prediction(peak_bytes=33 * GB, low_bytes=31 * GB, high_bytes=35 * GB, how="estimate", phase="train")
    view = WatchView(gpus=[gpu], driver_version="590.48.01", prediction=prediction if predicted else None)
    for line in frame(view, width, "GB", unicode=unicode).plain.split("\n"):
        assert len(line) <= width


def test_a_reading_that_is_missing_does_not_keep_the_old_one():
    device = Device(index=0)
    gpu = GpuView(device=device)
    memory = Memory(total_bytes=10, used_bytes=7, free_bytes=3, reserved_bytes=0)
    gpu.take(GpuSample(device=device, status="ok", memory=memory, gpu_percent=97))
    gpu.take(GpuSample(device=device, status="ok", memory=memory))
    assert gpu.gpu_percent == 97  # asked for at a slower pace: the last answer still stands
    gpu.take(GpuSample(device=device, status="lost"))
    assert gpu.gpu_percent is None
    assert list(gpu.history) == [7, 7, None]
    assert gpu.highest_bytes == 7


def test_a_process_of_another_namespace_has_no_name():
    assert process_name(999_999_999) == "(not visible from here)"
