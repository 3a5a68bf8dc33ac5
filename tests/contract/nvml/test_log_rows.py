"""What `vramplan log` writes, in its own format and in nvidia-smi's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

GB = 10**9
CAPTURES = (
    "linux-x86_64__nvidia-geforce-rtx-2080-super__595",
    "linux-x86_64__nvidia-geforce-rtx-2080-super__610",
    "linux-x86_64__nvidia-geforce-rtx-4080-super__595",
    "linux-x86_64__nvidia-h100-80gb-hbm3__590",
    "linux-x86_64__nvidia-h100-mig__590",
    "linux-x86_64__nvidia-h200-mig__590",
    "linux-x86_64__nvidia-h200__590",
    "linux-x86_64__nvidia-l40s__595",
    "windows-x86_64__nvidia-geforce-rtx-2080-super__591",
    "windows-x86_64__nvidia-geforce-rtx-2080-super__610",
)


def log(driver, scenario, *arguments, **more):
    result = driver.run(scenario, "log", "-i", "0.02", *arguments, **more)
    assert result.code == 0, result.err
    return result


def test_a_row_has_every_gpu_at_every_tick(driver, make):
    rows = log(driver, make("1000,2000,3000", "7"), "--count", "3").rows
    assert [(row["gpu_index"], row["used_bytes"]) for row in rows] == [
        ("0", "1000"),
        ("1", "7"),
        ("0", "2000"),
        ("1", "7"),
        ("0", "3000"),
        ("1", "7"),
    ]
    ticks = [int(row["tick"]) for row in rows]
    assert ticks[0::2] == ticks[1::2] == sorted(set(ticks))


def test_the_columns_are_a_contract(driver, make):
    first = log(driver, make("1000"), "--count", "1").out.splitlines()[0]
    assert first == (
        "time_utc,elapsed_seconds,tick,gpu_index,cuda_ordinal,gpu_uuid,pci_bus_id,gpu_name,used_bytes,free_bytes,"
        "reserved_bytes,total_bytes,gpu_utilization_ratio,temperature_celsius,power_watts,watched_bytes,process_bytes,"
        "predicted_peak_bytes,predicted_low_bytes,predicted_high_bytes,status"
    )


def test_a_row_says_all_that_the_driver_says(driver, make):
    (row,) = log(driver, make("1000", processes="11:700 12:-"), "--count", "1").rows
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row.pop("time_utc"))
    assert float(row.pop("elapsed_seconds")) >= 0
    assert row == {
        "tick": "0",
        "gpu_index": "0",
        "cuda_ordinal": "0",
        "gpu_uuid": "GPU-00000000-0000-0000-0000-000000000000",
        "pci_bus_id": "00000000:09:00.0",
        "gpu_name": "NVIDIA H100 80GB HBM3",
        "used_bytes": "1000",
        "free_bytes": str((81559 - 479) * 2**20 - 1000),
        "reserved_bytes": str(479 * 2**20),
        "total_bytes": str(81559 * 2**20),
        "gpu_utilization_ratio": "0.97",
        "temperature_celsius": "42",
        "power_watts": "433.78",
        "watched_bytes": "",
        "process_bytes": "11=700 12=",
        "predicted_peak_bytes": "",
        "predicted_low_bytes": "",
        "predicted_high_bytes": "",
        "status": "ok",
    }


def test_what_the_driver_does_not_say_is_an_empty_cell(driver, make):
    scenario = make("0", total=None, utilization=None, temperature=None, power_mw=None)
    (row,) = log(driver, scenario, "--count", "1").rows
    empty = (
        "used_bytes",
        "total_bytes",
        "reserved_bytes",
        "gpu_utilization_ratio",
        "temperature_celsius",
        "power_watts",
    )
    assert [row[name] for name in empty] == [""] * 6
    assert row["status"] == "not_supported"


def test_memory_is_polled_at_every_tick_and_the_process_list_is_not(driver, make):
    rows = log(driver, make("1000", processes="11:700"), "--count", "5", "--process-interval", "60").rows
    assert [row["used_bytes"] for row in rows] == ["1000"] * 5
    assert [row["process_bytes"] for row in rows] == ["11=700", "", "", "", ""]


def test_a_name_with_a_comma_stays_one_cell(driver, make):
    (row,) = log(driver, make("1", name='Card, "big"'), "--count", "1").rows
    assert (row["gpu_name"], row["status"]) == ('Card, "big"', "ok")


def test_cuda_order_is_shown_beside_nvmls(driver, make):
    environment = {"CUDA_VISIBLE_DEVICES": "2,0"}
    rows = log(driver, make("1", "2", "3"), "--count", "1", env=environment).rows
    assert [row["cuda_ordinal"] for row in rows] == ["1", "", "0"]


@pytest.mark.parametrize(
    "selector", ["1", "GPU-00000001-0000-0000-0000-000000000000", "gpu-00000001", "00000000:0A:00.0", "0a:00.0"]
)
def test_a_gpu_is_chosen_by_any_of_its_names(driver, make, selector):
    rows = log(driver, make("1", "2", "3"), "--count", "1", "--gpu", selector).rows
    assert [row["used_bytes"] for row in rows] == ["2"]


def test_a_gpu_that_is_not_there_is_a_usage_error_with_those_that_are(driver, make):
    result = driver.run(make("1"), "log", "--gpu", "5")
    assert (result.code, result.out) == (2, "")
    assert "no GPU is called '5'" in result.err
    assert "GPU-00000000" in result.err


def test_an_estimate_is_drawn_beside_the_rows_and_scored_at_the_end(driver, make, tmp_path):
    report = {
        "schema": "vramplan.report/1",
        "how": "estimate",
        "peak": {"phase": "train", "device_used_bytes": 33 * GB, "low_bytes": 31 * GB, "high_bytes": 35 * GB},
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    result = log(driver, make(f"{GB},{30 * GB},{GB}"), "--count", "3", "--estimate", "report.json")
    assert {row["predicted_peak_bytes"] for row in result.rows} == {str(33 * GB)}
    assert "predicted 33.00 GB (estimate, train): 3.00 GB (10.0%) above the measured peak of GPU 0" in result.err
    assert "outside the band 31.00 GB to 35.00 GB" in result.err


@pytest.mark.parametrize("content", ["", "{}", '{"schema": "other/1"}', '{"schema": "vramplan.report/1"}'])
def test_a_file_that_is_no_report_is_a_usage_error(driver, make, tmp_path, content):
    (tmp_path / "report.json").write_text(content)
    assert driver.run(make("1"), "log", "--estimate", "report.json").code == 2


def smi(driver, scenario, query, form="csv"):
    return log(driver, scenario, "--count", "1", f"--query-gpu={query}", f"--format={form}").out


def test_nvidia_smi_rows_round_up_each_cell(driver, make):
    scenario = make("501481472", reserved=502267904)
    assert smi(driver, scenario, "index,memory.used,memory.total,memory.reserved") == (
        "index, memory.used [MiB], memory.total [MiB], memory.reserved [MiB]\n0, 479 MiB, 81559 MiB, 479 MiB\n"
    )


def test_nounits_keeps_the_headers_units_and_noheader_drops_the_header(driver, make):
    query = "memory.used,power.draw,temperature.gpu"
    assert smi(driver, make("1048576"), query, "csv,nounits") == (
        "memory.used [MiB], power.draw [W], temperature.gpu\n1, 433.78, 42\n"
    )
    assert smi(driver, make("1048576"), query, "csv,noheader,nounits") == "1, 433.78, 42\n"
    assert smi(driver, make("1048576"), query, "nvidia-smi,noheader") == "1 MiB, 433.78 W, 42\n"


def test_aliases_become_the_canonical_name(driver, make):
    out = smi(driver, make("1", clock1=1980), "gpu_name,gpu_uuid,clocks.sm")
    assert out.splitlines() == [
        "name, uuid, clocks.current.sm [MHz]",
        "NVIDIA H100 80GB HBM3, GPU-00000000-0000-0000-0000-000000000000, 1980 MHz",
    ]


def test_time_is_local_and_without_a_zone(driver, make):
    out = log(
        driver, make("1"), "--count", "1", "--query-gpu=timestamp", "--format=csv,noheader", env={"TZ": "XYZ-09"}
    ).out
    assert re.fullmatch(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{3}\n", out)


def test_what_a_gpu_does_not_have_is_in_brackets_but_memory_temperature_is_bare(driver, make):
    scenario = make("0", total=None, utilization=None)
    query = "memory.used,memory.total,utilization.gpu,fan.speed,temperature.memory"
    assert smi(driver, scenario, query, "csv,noheader") == "[N/A], [N/A], [N/A], [N/A], N/A\n"


def test_a_lost_gpu_says_so_and_the_other_goes_on(driver, make):
    faults = "".join(f"fault {name} 0 1 0 15\n" for name in ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMemoryInfo"))
    out = smi(driver, make("1", "2") + faults, "index,memory.used", "csv,noheader")
    assert out == "0, [GPU is lost]\n1, 1 MiB\n"


def test_mig_instances_have_rows_of_their_own_in_ours_and_none_in_nvidia_smis(driver, make):
    mig = "gpu.0.mig_mode 1 1\ngpu.0.mig_max 2\ngpu.0.mig.1.uuid MIG-1\ngpu.0.mig.1.total 5000\ngpu.0.mig.1.used 10\n"
    rows = log(driver, make("1000") + mig, "--count", "1").rows
    assert [(row["gpu_index"], row["used_bytes"]) for row in rows] == [("0", "1000"), ("0:1", "10")]
    assert smi(driver, make("1000") + mig, "index,mig.mode.current", "csv,noheader") == "0, Enabled\n"


def test_an_unknown_field_is_refused_in_nvidia_smis_words(driver, make):
    result = driver.run(make("1"), "log", "--query-gpu=memory.used,nonsense")
    assert result.code == 2
    assert 'Field "nonsense" is not a valid field to query' in result.err


def captured(path: Path) -> list[dict[str, str]]:
    """The `--query-gpu` rows of a capture, one per section (idle, load)."""
    lines = path.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n").split("\n")
    found = []
    for number, line in enumerate(lines):
        if line.startswith("timestamp, driver_version"):
            found.append(dict(zip(line.split(", "), lines[number + 1].split(", "), strict=True)))
    return found


_PLAIN = {
    "name": "name",
    "uuid": "uuid",
    "serial": "serial",
    "vbios_version": "vbios",
    "pci.bus_id": "pci",
    "pci.device_id": "pci_id",
    "pci.sub_device_id": "pci_sub_id",
    "pcie.link.gen.gpucurrent": "pcie_gen",
    "pcie.link.gen.max": "pcie_gen_max",
    "pcie.link.gen.gpumax": "pcie_gen_gpumax",
    "pcie.link.width.current": "pcie_width",
    "pcie.link.width.max": "pcie_width_max",
    "fan.speed [%]": "fan",
    "temperature.gpu": "temperature",
    "temperature.memory": "field82",
    "clocks_event_reasons.active": "event_reasons",
    "clocks.current.graphics [MHz]": "clock0",
    "clocks.current.sm [MHz]": "clock1",
    "clocks.current.memory [MHz]": "clock2",
    "clocks.current.video [MHz]": "clock3",
    "clocks.max.graphics [MHz]": "max_clock0",
    "clocks.max.sm [MHz]": "max_clock1",
    "clocks.max.memory [MHz]": "max_clock2",
}
_WATTS = {
    "power.draw [W]": "power_mw",
    "power.draw.average [W]": "field185",
    "power.draw.instant [W]": "field186",
    "power.limit [W]": "power_limit_mw",
    "enforced.power.limit [W]": "enforced_power_limit_mw",
    "power.default_limit [W]": "power_default_limit_mw",
}
_SWITCHES = {"persistence_mode": "persistence", "display_active": "display_active", "accounting.mode": "accounting"}


def scenario_of(row: dict[str, str]) -> str:
    """The machine that nvidia-smi looked at, rebuilt from what it printed."""

    def number(name: str) -> str:
        return row[name].split(" ")[0]

    def given(name: str) -> bool:
        return name in row and row[name] not in ("[N/A]", "N/A")

    values = {key: number(name) if " [" in name else row[name] for name, key in _PLAIN.items() if given(name)}
    values.update({key: round(float(number(name)) * 1000) for name, key in _WATTS.items() if given(name)})
    values.update({key: int(row[name] == "Enabled") for name, key in _SWITCHES.items() if given(name)})
    for name in ("total", "reserved", "used", "free"):
        values[name] = max(0, int(number(f"memory.{name} [MiB]")) * 2**20 - (7 if name == "used" else 0))  # rounds up
    if given("utilization.gpu [%]"):
        values["utilization"] = f"{number('utilization.gpu [%]')} {number('utilization.memory [%]')}"
        for name in ("encoder", "decoder", "jpeg", "ofa"):
            values[name] = f"{number(f'utilization.{name} [%]')} 1000"
    if given("mig.mode.current"):
        values["mig_mode"] = f"{int(row['mig.mode.current'] == 'Enabled')} {int(row['mig.mode.pending'] == 'Enabled')}"
    if given("ecc.mode.current"):
        values["ecc_mode"] = f"{int(row['ecc.mode.current'] == 'Enabled')} {int(row['ecc.mode.pending'] == 'Enabled')}"
    limits = [round(float(number(f"power.{name}_limit [W]")) * 1000) for name in ("min", "max")]
    values["power_constraints_mw"] = f"{limits[0]} {limits[1]}"
    values["pstate"] = row["pstate"][1:]
    values["compute_mode"] = 0
    values["compute_cap"] = row["compute_cap"].replace(".", " ")
    return f"driver {row['driver_version']}\ncount 1\n" + "".join(f"gpu.0.{k} {v}\n" for k, v in values.items())


@pytest.mark.parametrize("name", CAPTURES)
def test_a_capture_comes_back_byte_for_byte(driver, shared, name):
    from vramplan.monitor.smi_fields import FIELDS

    (path,) = (shared / "nvidia-smi" / "captures").glob(f"{name}*")
    rows = captured(path)
    assert rows
    for row in rows:
        columns = [column for column in row if column.split(" [")[0] in FIELDS and column != "timestamp"]
        assert len(columns) > 60
        out = smi(driver, scenario_of(row), ",".join(column.split(" [")[0] for column in columns))
        header, cells = out.splitlines()
        assert header == ", ".join(columns)
        assert dict(zip(columns, cells.split(", "), strict=True)) == {column: row[column] for column in columns}
