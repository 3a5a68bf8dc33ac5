"""`vramplan report` on the command line: each rendering says the same numbers."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from vramplan.cli import app

GB = 10**9
MiB = 2**20
REPORT = {
    "schema": "vramplan.report/1",
    "how": "estimate",
    "id": None,
    "phases": [
        {"name": "load", "components": {"weights": 12 * GB, "context": GB}},
        {"name": "train", "components": {"weights": 12 * GB, "context": GB, "activations": 20 * GB}},
    ],
    "peak": {"phase": "train", "device_used_bytes": 33 * GB, "low_bytes": 31 * GB, "high_bytes": 35 * GB},
    "budget": None,
}


def smi_log(path: Path, *used_mib: int, gpus: int = 1) -> Path:
    lines = ["timestamp, index, name, memory.used [MiB], memory.total [MiB]"]
    for at, used in enumerate(used_mib):
        for gpu in range(gpus):
            time = f"2026/07/03 {22 + at // 3600}:{at // 60 % 60:02d}:{at % 60:02d}.{gpu:03d}"
            lines.append(f"{time}, {gpu}, NVIDIA H100 <b>80GB</b>, {used + gpu} MiB, 81559 MiB")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def run(capsys):
    def invoke(*arguments, code=0):
        assert app.run(["report", *(str(one) for one in arguments)]) == code
        captured = capsys.readouterr()
        return captured.out if code == 0 else captured.err

    return invoke


def test_json_has_the_numbers_that_scripts_read(run, tmp_path):
    log = smi_log(tmp_path / "log.csv", 100, 5000, 300, gpus=2)
    document = json.loads(run(log, "--json"))
    assert document["schema"] == "vramplan.log-report/1"
    assert [gpu["peak_used_bytes"] for gpu in document["gpus"]] == [5000 * MiB, 5001 * MiB]
    first = document["gpus"][0]
    assert first["capacity_bytes"] == 81559 * MiB
    assert first["margin_bytes"] == (81559 - 5000) * MiB
    assert (first["num_samples"], first["num_gaps"], first["gaps"]) == (3, 0, [])
    assert first["mean_used_bytes"] == 1800 * MiB
    assert first["peak_time"] == "2026-07-03T22:00:01.000"
    assert document["logs"][0]["dropped_rows"] == []


def test_keys_do_not_depend_on_the_input(run, tmp_path):
    def keys(value):
        if isinstance(value, dict):
            return {key: keys(inner) for key, inner in value.items()}
        return None

    rich = smi_log(tmp_path / "a.csv", *range(1, 200))
    poor = tmp_path / "b.csv"
    poor.write_text("memory.used [MiB]\n5 MiB\n")
    first, second = (json.loads(run(path, "--json")) for path in (rich, poor))
    assert keys(first["gpus"][0]) == keys(second["gpus"][0])
    assert keys(first["logs"][0]) == keys(second["logs"][0])


def test_dropped_lines_are_said_with_their_reason(run, tmp_path):
    log = smi_log(tmp_path / "log.csv", 100, 200)
    log.write_text("a banner\n" + log.read_text() + "2026/07/03 22:1")
    document = json.loads(run(log, "--json"))
    assert document["logs"][0]["num_dropped_rows"] == 2
    assert document["gpus"][0]["dropped_rows"] == document["logs"][0]["dropped_rows"]
    assert [one["reason"] for one in document["logs"][0]["dropped_rows"]] == [
        "before the header",
        "the last line, cut before its end",
    ]
    assert "1 line dropped: before the header (the first is line 1)" in run(log)


def test_csv_and_markdown_and_the_table_say_the_same(run, tmp_path):
    log = smi_log(tmp_path / "log.csv", 100, 5000, 300)
    (row,) = csv.DictReader(io.StringIO(run(log, "--csv")))
    assert int(row["peak_used_bytes"]) == 5000 * MiB
    for text in (run(log, "--markdown"), run(log)):
        assert "5.24" in text
        assert "85.52" in text
    assert f"{5000 * MiB:,}" in run(log, "--units", "bytes", "--markdown")
    assert "4.88" in run(log, "--units", "GiB", "--markdown")


def test_a_prediction_is_held_against_the_log(run, tmp_path):
    log = smi_log(tmp_path / "log.csv", 100, 30000, 300)
    (tmp_path / "plan.json").write_text(json.dumps(REPORT))
    document = json.loads(run(log, "--estimate", tmp_path / "plan.json", "--json"))
    predicted = document["gpus"][0]["predicted"]
    assert (predicted["peak_bytes"], predicted["low_bytes"], predicted["high_bytes"]) == (33 * GB, 31 * GB, 35 * GB)
    assert predicted["error_ratio"] == round(33 * GB / (30000 * MiB) - 1, 4)
    assert document["plans"][0]["phases"][1]["components"]["activations"] == 20 * GB


def test_records_stand_beside_logs(run, tmp_path):
    record = {**REPORT, "how": "measure", "id": "r1"}
    (tmp_path / "records.jsonl").write_text(json.dumps(record) + "\n" + json.dumps({"report": record}) + "\n")
    document = json.loads(run(smi_log(tmp_path / "log.csv", 5), tmp_path / "records.jsonl", "--json"))
    assert [(plan["how"], plan["id"]) for plan in document["plans"]] == [("measure", "r1")] * 2


def test_thresholds_and_a_capacity_can_be_given(run, tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("timestamp, memory.used [MiB]\n2026/07/03 22:00:00.000, 5000 MiB\n2026/07/03 22:00:01.000, 1 MiB\n")
    document = json.loads(run(log, "--above", "4GB", "--capacity", "8GB", "--json"))
    (gpu,) = document["gpus"]
    assert gpu["above"] == [{"threshold_bytes": 4 * GB, "seconds": 1.0, "samples": 1}]
    assert gpu["capacity_bytes"] == 8 * GB


@pytest.mark.parametrize(
    "wrong", [["--json", "--csv"], ["--units", "MB"], ["--above", "much"], ["--estimate", "none.json"]]
)
def test_wrong_flags_are_usage_errors(run, tmp_path, wrong):
    assert run(smi_log(tmp_path / "log.csv", 5), *wrong, code=2).startswith("error: ")


@pytest.mark.parametrize("content", ["not json", "[]", '{"schema": "other"}'])
def test_a_json_file_that_is_no_report_is_refused(run, tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    assert run(tmp_path / "x.json", code=2).startswith("error: ")


def test_no_log_at_all_is_one_sentence(run):
    assert run(code=2) == "error: no log is given\nhint: vramplan report memory_log.csv\n"


def test_a_log_of_ours_is_reported(run, tmp_path):
    from vramplan.monitor.native_format import NativeFormat
    from vramplan.monitor.prediction import Prediction
    from vramplan.monitor.sample import Device, GpuProcess, GpuSample, Memory, Tick

    device = Device(index=0, uuid="GPU-a", pci_bus_id="00000000:0C:00.0", name='Card, "big"')
    prediction = Prediction(peak_bytes=9 * GB, low_bytes=8 * GB, high_bytes=10 * GB, how="estimate", phase="train")
    made = NativeFormat({device: 0}, prediction)
    lines = [made.header()]
    for number, used in enumerate((GB, 8 * GB, 2 * GB, None)):
        memory = used and Memory(total_bytes=80 * GB, used_bytes=used, free_bytes=1, reserved_bytes=GB)
        sample = GpuSample(
            device=device,
            status="ok" if used else "lost",
            memory=memory or None,
            processes=(GpuProcess(pid=7, used_bytes=used),) if used else None,
            watched_bytes=used,
        )
        lines += made.lines(
            Tick(number=number, time_ns=(1000 + number) * 10**9, elapsed_seconds=float(number), samples=(sample,))
        )
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    document = json.loads(run(tmp_path / "log.csv", "--json"))
    (gpu,) = document["gpus"]
    assert document["logs"][0]["format"] == "native"
    assert (gpu["gpu"], gpu["index"], gpu["name"]) == ("GPU-a", "0", 'Card, "big"')
    assert (gpu["peak_used_bytes"], gpu["peak_watched_bytes"]) == (8 * GB, 8 * GB)
    assert gpu["margin_bytes"] == 71 * GB
    assert gpu["peak_time"] == "1970-01-01T00:16:41.000Z"
    assert gpu["bad_samples"] == {"lost": 1}
    assert gpu["processes"] == [{"pid": 7, "name": None, "peak_bytes": 8 * GB, "samples": 3}]
    assert gpu["predicted"]["error_ratio"] == 0.125


def test_our_note_in_an_empty_log_is_no_gpu(run, tmp_path):
    from vramplan.monitor.native_format import NativeFormat

    made = NativeFormat({}, None)
    (tmp_path / "log.csv").write_text(f"{made.header()}\n{made.empty_line(0, 'library_not_found')}\n")
    assert json.loads(run(tmp_path / "log.csv", "--json"))["gpus"] == []


def test_the_parts_of_a_rotated_log_are_one_log_in_any_order(run, tmp_path):
    from vramplan.monitor.native_format import NativeFormat
    from vramplan.monitor.sample import Device, GpuSample, Memory, Tick

    made = NativeFormat({}, None)
    for part, name in enumerate(("log.csv", "log.1.csv", "log.2.csv")):
        lines = [made.header()]
        for number in range(part * 10, part * 10 + 10):
            memory = Memory(total_bytes=80 * GB, used_bytes=number * GB, free_bytes=1, reserved_bytes=GB)
            sample = GpuSample(device=Device(index=0, uuid="GPU-a"), status="ok", memory=memory)
            time_ns = (1000 + number) * 10**9
            lines += made.lines(Tick(number=number, time_ns=time_ns, elapsed_seconds=float(number), samples=(sample,)))
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    document = json.loads(run(*sorted(tmp_path.glob("log*.csv")), "--json"))
    (gpu,) = document["gpus"]
    assert (gpu["num_samples"], gpu["peak_used_bytes"], gpu["num_gaps"]) == (30, 29 * GB, 0)
    assert gpu["duration_seconds"] == 29.0


def test_logs_of_others_with_numbers_in_their_names_are_not_joined(run, tmp_path):
    first, second = smi_log(tmp_path / "log.csv", 1), smi_log(tmp_path / "log.1.csv", 2)
    assert len(json.loads(run(first, second, "--json"))["gpus"]) == 2
