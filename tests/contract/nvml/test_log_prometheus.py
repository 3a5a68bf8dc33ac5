"""The same samples for Prometheus, under dcgm-exporter's names where they mean the same."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.request

import pytest

GB = 10**9
MiB = 2**20


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def scrape(port):
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, sample.labels.get("gpu")): (sample.value, sample.labels)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def is_served(port):
    try:
        return ("vramplan_last_sample_ok", "0") in scrape(port)
    except OSError:
        return False


def test_a_scrape_says_what_the_last_row_says(driver, make, tmp_path, until, port):
    pytest.importorskip("prometheus_client", reason="--prometheus needs prometheus_client")
    peak = {"phase": "train", "device_used_bytes": 33 * GB, "low_bytes": 31 * GB, "high_bytes": 35 * GB}
    (tmp_path / "r.json").write_text(json.dumps({"schema": "vramplan.report/1", "peak": peak}))
    lost = "".join(f"fault {name} 1 1 0 15\n" for name in ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMemoryInfo"))
    process = driver.start(
        make(f"{30 * GB},{3 * GB}", "5") + lost,
        *("log", "-o", "log.csv", "-i", "0.05", "--prometheus", str(port), "--estimate", "r.json"),
        *("--pid", str(os.getpid())),
    )
    until(lambda: is_served(port) and scrape(port)["DCGM_FI_DEV_FB_USED", "0"][0] == 3 * GB // MiB)
    found = scrape(port)
    assert found["DCGM_FI_DEV_FB_RESERVED", "0"][0] == 479
    assert found["DCGM_FI_DEV_FB_FREE", "0"][0] == (81080 * MiB - 3 * GB) // MiB
    assert found["DCGM_FI_DEV_GPU_UTIL", "0"][0] == 97
    assert found["DCGM_FI_DEV_GPU_TEMP", "0"][0] == 42
    assert found["DCGM_FI_DEV_POWER_USAGE", "0"][0] == 433.78
    assert found["vramplan_peak_used_bytes", "0"][0] == 30 * GB
    assert found["vramplan_watched_memory_bytes", "0"][0] == 0
    assert found["vramplan_predicted_peak_bytes", None][0] in (31 * GB, 33 * GB, 35 * GB)
    labels = found["DCGM_FI_DEV_FB_USED", "0"][1]
    assert {key: labels[key] for key in ("gpu", "UUID", "pci_bus_id", "device", "modelName", "Hostname")} == {
        "gpu": "0",
        "UUID": "GPU-00000000-0000-0000-0000-000000000000",
        "pci_bus_id": "00000000:09:00.0",
        "device": "nvidia0",
        "modelName": "NVIDIA H100 80GB HBM3",
        "Hostname": socket.gethostname(),
    }
    assert found["vramplan_last_sample_ok", "1"][0] == 0
    assert ("DCGM_FI_DEV_FB_USED", "1") not in found  # a lost GPU has no value: never a zero
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130


def test_an_address_that_is_taken_or_wrong_is_a_usage_error(driver, make, port):
    assert driver.run(make("1"), "log", "--prometheus", "nowhere", "--count", "1").code == 2
    pytest.importorskip("prometheus_client", reason="--prometheus needs prometheus_client")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        result = driver.run(make("1"), "log", "--prometheus", f"127.0.0.1:{port}", "--count", "1")
    assert result.code == 2
    assert "cannot be served" in result.err


def test_without_the_library_one_sentence_says_what_to_install(driver, make, tmp_path, port):
    (tmp_path / "prometheus_client.py").write_text("raise ImportError('not here')\n")
    path = f"{tmp_path}{os.pathsep}{driver.environment(None)['PYTHONPATH']}"
    result = driver.run(make("1"), "log", "--prometheus", str(port), "--count", "1", env={"PYTHONPATH": path})
    assert result.code == 2
    assert "vramplan[prometheus]" in result.err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9400", ("127.0.0.1", 9400)),
        (":9400", ("127.0.0.1", 9400)),
        ("0.0.0.0:9400", ("0.0.0.0", 9400)),
        ("[::1]:9400", ("::1", 9400)),
    ],
)
def test_addresses_are_loopback_unless_told(text, expected):
    from vramplan.monitor.exporter import parse_address

    assert parse_address(text) == expected
