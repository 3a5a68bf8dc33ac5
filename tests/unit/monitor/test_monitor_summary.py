from __future__ import annotations

from vramplan.monitor.native_format import NativeFormat, utc_text
from vramplan.monitor.prediction import Prediction
from vramplan.monitor.sample import Device, GpuSample, Memory, Tick
from vramplan.monitor.status_line import bar
from vramplan.monitor.summary import RunSummary, summary_lines

GB = 10**9
GPU = Device(index=0, uuid="GPU-a", name="Card")


def tick(number, used, *, seconds=None, wall=None, status="ok", reserved=GB):
    seconds = number if seconds is None else seconds
    memory = None
    if used is not None:
        memory = Memory(total_bytes=80 * GB, used_bytes=used, free_bytes=0, reserved_bytes=reserved)
    sample = GpuSample(device=GPU, status=status, memory=memory)
    return Tick(number=number, time_ns=int((wall or seconds) * 1e9), elapsed_seconds=float(seconds), samples=(sample,))


def summary(*ticks):
    made = RunSummary(1.0)
    for one in ticks:
        made.add(one)
    return made


def test_the_peak_has_its_time_and_its_margin_to_what_cuda_can_have():
    gpu = summary(tick(0, 5 * GB), tick(1, 30 * GB), tick(2, 4 * GB)).gpus[GPU]
    assert (gpu.peak_used_bytes, gpu.peak_elapsed_seconds) == (30 * GB, 1.0)
    assert (gpu.usable_bytes, gpu.margin_bytes) == (79 * GB, 49 * GB)


def test_a_jump_in_the_numbers_is_a_gap():
    made = summary(tick(0, 1), tick(1, 1), tick(7, 1))
    assert (made.num_gaps, made.longest_gap_seconds) == (1, 6.0)
    assert summary(tick(0, 1), tick(1, 1), tick(2, 1)).num_gaps == 0


def test_a_clock_that_was_set_is_noticed_and_no_gap():
    made = summary(tick(0, 1), tick(1, 1, wall=5000), tick(2, 1, wall=5001))
    assert (made.num_clock_jumps, made.num_gaps) == (1, 0)


def test_without_a_reading_there_is_no_peak_and_no_zero():
    made = summary(tick(0, None, status="lost"))
    assert made.gpus[GPU].peak_used_bytes is None
    assert made.highest is None
    assert summary_lines(made)[0] == "GPU 0 (Card): no memory reading (lost)"


def test_version_1_is_said():
    text = "\n".join(summary_lines(summary(tick(0, GB, reserved=None))))
    assert "version 1 only" in text


def test_the_predictions_error_is_of_the_measured_peak():
    prediction = Prediction(peak_bytes=33 * GB, low_bytes=29 * GB, high_bytes=35 * GB, how="simulate", phase="train")
    text = "\n".join(summary_lines(summary(tick(0, 30 * GB)), units="GB", prediction=prediction))
    assert "3.00 GB (10.0%) above the measured peak" in text
    assert "inside the band 29.00 GB to 35.00 GB" in text
    nothing = summary_lines(RunSummary(1.0), prediction=prediction)
    assert "nothing was measured" in nothing[-1]


def test_the_bar_shows_use_and_the_expected_peak():
    prediction = Prediction(peak_bytes=5, low_bytes=None, high_bytes=None, how="estimate", phase="train")
    assert bar(2, 10, prediction, width=10) == "[##---|----]"
    assert bar(0, 10, None, width=10) == "[----------]"
    assert bar(10, 10, None, width=10) == "[##########]"


def test_times_are_utc_with_milliseconds():
    assert utc_text(1_795_288_931_123_456_789) == "2026-11-21T19:22:11.123Z"


def test_a_line_end_in_a_name_does_not_end_the_row():
    device = Device(index=0, name="a\nb")
    sample = GpuSample(device=device, status="ok")
    (line,) = NativeFormat({}, None).lines(Tick(number=0, time_ns=0, elapsed_seconds=0.0, samples=(sample,)))
    assert "\n" not in line
    assert "a b" in line
