"""What logging costs: `vramplan log` beside nvitop's collector and gpustat, over one driver of ours with 8 GPUs.

    python benchmarks/monitor.py [--seconds 30]
    python benchmarks/monitor.py --calls                  what each NVML call costs on this machine's own driver
    python benchmarks/monitor.py --beside-nvidia-smi 60   both at once for a minute, compared cell by cell

The driver is the small C library of tests/contract/nvml, so this measures the tools and not NVML: on a real machine the
driver's own time comes on top, the same for each tool and question (see docs/monitoring.md). A peer that is not
installed is left out. It prints, and asserts nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCE = REPOSITORY / "tests" / "contract" / "nvml" / "fakenvml.c"
NUM_GPUS = 8
WARM_UP_SECONDS = 4.0

VRAMPLAN = """
from vramplan.cli.app import run
run(["log", "-i", "1", "-o", "log.csv", "-q", *EXTRA])
"""
NVITOP = """
import csv, time
from nvitop import Device, ResourceMetricCollector
collector = ResourceMetricCollector(Device.all(), root_pids={1}, interval=1.0)
with open("log.csv", "w") as file, collector("log"):
    writer = None
    while True:
        values = collector.collect()
        if writer is None:
            writer = csv.DictWriter(file, values, extrasaction="ignore")
            writer.writeheader()
        writer.writerow(values)
        file.flush()
        time.sleep(1.0)
"""
GPUSTAT = """
import time
from gpustat import GPUStatCollection
with open("log.csv", "w") as file:
    while True:
        for gpu in GPUStatCollection.new_query():
            file.write(f"{time.time()},{gpu.index},{gpu.uuid},{gpu.memory_used},{gpu.memory_total},{gpu.utilization}\\n")
        file.flush()
        time.sleep(1.0)
"""
PROGRAMS = {
    "vramplan log -i 1": VRAMPLAN.replace(", *EXTRA", ""),
    "vramplan log, nvidia-smi format": VRAMPLAN.replace(
        "*EXTRA", '"--query-gpu=timestamp,index,memory.used,memory.total,utilization.gpu,power.draw"'
    ),
    "nvitop collector, 1 s": NVITOP,
    "gpustat, 1 s": GPUSTAT,
}
NEEDS = {"nvitop collector, 1 s": "nvitop", "gpustat, 1 s": "gpustat"}


@dataclass
class Cost:
    cpu_percent: float
    cpu_ms_per_second: float
    resident_mib: float
    peak_mib: float
    rows: int


def build(folder: Path) -> dict[str, str]:
    """Compile the driver and say what machine it is; the environment to run against it."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        sys.exit("this benchmark needs a C compiler")
    flags = ["-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run([compiler, *flags, "-o", str(folder / "libnvidia-ml.so.1"), str(SOURCE)], check=True)
    lines = [f"count {NUM_GPUS}", "driver 590.48.01"]
    for index in range(NUM_GPUS):
        fields = {
            "uuid": f"GPU-{index:08d}-0000-0000-0000-000000000000",
            "pci": f"00000000:{index + 9:02X}:00.0",
            "name": "NVIDIA H100 80GB HBM3",
            "total": 81559 * 2**20,
            "reserved": 479 * 2**20,
            "used": 30 * 10**9,
            "utilization": "97 8",
            "temperature": 42,
            "power_mw": 433780,
            "processes": f"{os.getpid()}:30000000000",
        }
        lines += [f"gpu.{index}.{key} {value}" for key, value in fields.items()]
    (folder / "machine.txt").write_text("\n".join(lines) + "\n")
    return {
        **os.environ,
        "LD_LIBRARY_PATH": str(folder),
        "VRAMPLAN_FAKE_NVML": str(folder / "machine.txt"),
        "PYTHONPATH": str(REPOSITORY),
    }


def cpu_seconds(pid: int) -> float:
    """Time on a core of all threads, from /proc/PID/task/*/schedstat (nanoseconds)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def memory_mib(pid: int, key: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(key)) / 1024


def measure(program: str, environment: dict[str, str], folder: Path, seconds: float) -> Cost:
    log = folder / "log.csv"
    log.unlink(missing_ok=True)
    process = subprocess.Popen([sys.executable, "-c", program], env=environment, cwd=folder, stderr=subprocess.DEVNULL)
    try:
        time.sleep(WARM_UP_SECONDS)
        before, started = cpu_seconds(process.pid), time.monotonic()
        time.sleep(seconds)
        used, passed = cpu_seconds(process.pid) - before, time.monotonic() - started
        resident, peak = memory_mib(process.pid, "VmRSS:"), memory_mib(process.pid, "VmHWM:")
    finally:
        process.terminate()
        process.wait(30)
    rows = log.read_text().count("\n")
    return Cost(100 * used / passed, 1000 * used / passed, resident, peak, rows)


def time_calls() -> None:
    """Median and 99th percentile of each call that the logger makes, through its own door."""
    from vramplan.monitor.faults import NvmlFault
    from vramplan.monitor.nvml import open_nvml

    door = open_nvml()
    device = door.devices()[0]
    calls = {
        "memory (v2, else v1)": lambda: door.memory(device),
        "utilisation": lambda: door.ask(device, "nvmlDeviceGetUtilizationRates"),
        "temperature": lambda: door.ask(device, "nvmlDeviceGetTemperature", "NVML_TEMPERATURE_GPU"),
        "power": lambda: door.ask(device, "nvmlDeviceGetPowerUsage"),
        "compute processes": lambda: door.processes(device),
        "graphics processes (never asked for)": lambda: door.ask(device, "nvmlDeviceGetGraphicsRunningProcesses"),
    }
    print(f"{device.name}, driver {door.driver_version()}: microseconds a call\n")
    print(f"{'':38}{'median':>10}{'p99':>10}")
    for name, call in calls.items():
        taken = []
        try:
            for _ in range(500):
                started = time.perf_counter()
                call()
                taken.append(1e6 * (time.perf_counter() - started))
        except NvmlFault as fault:
            print(f"{name:38}  {fault.status}")
            continue
        taken.sort()
        print(f"{name:38}{taken[250]:10.1f}{taken[495]:10.1f}")
    door.close()


def beside_nvidia_smi(seconds: float) -> None:
    """Run nvidia-smi and `vramplan log` with one query, and compare their rows of the same second."""
    from datetime import datetime

    fields = "timestamp,index,uuid,name,memory.total,memory.reserved,memory.used,memory.free,pstate,power.limit"
    query = [f"--query-gpu={fields}", "--format=csv"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        programs = {
            "theirs": ["nvidia-smi", *query, "-l", "1"],
            "ours": [sys.executable, "-m", "vramplan.cli.app", "log", *query, "-l", "1", "-q"],
        }
        running = []
        for title, command in programs.items():
            with (folder / title).open("w") as out:
                running.append(subprocess.Popen(command, stdout=out, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}))
        time.sleep(seconds)
        for process in running:
            process.terminate()
            process.wait(30)
        rows = {title: (folder / title).read_text().splitlines() for title in programs}
    print(f"header equal: {rows['theirs'][0] == rows['ours'][0]}")
    columns = rows["ours"][0].split(", ")
    tables = {
        title: [dict(zip(columns, line.split(", "), strict=True)) for line in lines[1:]]
        for title, lines in rows.items()
    }
    different = dict.fromkeys(columns[1:], 0)
    pairs = 0
    for ours in tables["ours"]:
        at = datetime.strptime(ours["timestamp"], "%Y/%m/%d %H:%M:%S.%f")
        same = [row for row in tables["theirs"] if row["index"] == ours["index"]]
        near = min(same, key=lambda row: abs(datetime.strptime(row["timestamp"], "%Y/%m/%d %H:%M:%S.%f") - at))
        pairs += 1
        for column in different:
            different[column] += ours[column] != near[column]
    print(f"{pairs} rows of ours, each against nvidia-smi's nearest in time; cells that differ:")
    for column, count in different.items():
        print(f"  {column:24}{count:6}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="measured time a tool, after 4 s of warm-up")
    parser.add_argument("--calls", action="store_true", help="what each NVML call costs here")
    parser.add_argument("--beside-nvidia-smi", type=float, metavar="SECONDS", help="compare with nvidia-smi")
    given = parser.parse_args()
    sys.path.insert(0, str(REPOSITORY))
    if given.calls:
        time_calls()
    elif given.beside_nvidia_smi:
        beside_nvidia_smi(given.beside_nvidia_smi)
    else:
        side_by_side(given.seconds)


def side_by_side(seconds: float) -> None:
    print(f"{NUM_GPUS} GPUs of a driver that answers at once, one sample a second, {seconds:g} s each\n")
    print(f"{'':34}{'% of a core':>12}{'CPU ms/s':>10}{'RSS MiB':>9}{'peak MiB':>10}{'lines':>7}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = build(folder)
        for title, program in PROGRAMS.items():
            needed = NEEDS.get(title)
            if needed and subprocess.run([sys.executable, "-c", f"import {needed}"], capture_output=True).returncode:
                print(f"{title:34}  not installed: pip install {needed}")
                continue
            cost = measure(program, environment, folder, seconds)
            print(
                f"{title:34}{cost.cpu_percent:12.3f}{cost.cpu_ms_per_second:10.2f}{cost.resident_mib:9.1f}"
                f"{cost.peak_mib:10.1f}{cost.rows:7}"
            )


if __name__ == "__main__":
    main()
