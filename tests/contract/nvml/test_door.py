"""One suite for every path through monitor/nvml.py, against each kind of machine that NVML is known to run on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

TOTAL, RESERVED = 81559 * 2**20, 479 * 2**20


def memory(answer, label="0", turn=0):
    return answer["looks"][turn][label]["memory"]


def test_memory_is_version_2_with_the_drivers_reserve_apart(driver, make):
    assert memory(driver.door(make("1000"))) == [TOTAL, 1000, TOTAL - RESERVED - 1000, RESERVED]


def test_a_device_says_its_uuid_bus_name_and_driver(driver, make):
    answer = driver.door(make("1", "2"))
    assert answer["driver"] == "590.48.01"
    assert answer["devices"] == [
        ["0", "GPU-00000000-0000-0000-0000-000000000000", "00000000:09:00.0", "NVIDIA H100 80GB HBM3"],
        ["1", "GPU-00000001-0000-0000-0000-000000000000", "00000000:0A:00.0", "NVIDIA H100 80GB HBM3"],
    ]


def test_eight_gpus_keep_their_order(driver, make):
    answer = driver.door(make(*(str(n) for n in range(8))))
    assert [device[0] for device in answer["devices"]] == [str(n) for n in range(8)]
    assert [memory(answer, str(n))[1] for n in range(8)] == list(range(8))


@pytest.mark.parametrize("code", [999, 13, 3, 25, 2], ids=["wsl", "old-driver", "unsupported", "version", "argument"])
def test_where_version_2_fails_version_1_answers_and_used_includes_the_reserve(driver, make, code):
    answer = driver.door(make("1000") + f"fault nvmlDeviceGetMemoryInfo_v2 * 1 0 {code}\n")
    assert memory(answer) == [TOTAL, 1000 + RESERVED, TOTAL - RESERVED - 1000, None]


def test_an_unknown_symbol_falls_back_too(driver, make):
    answer = driver.door(make("1000") + "missing nvmlDeviceGetMemoryInfo_v2\n")
    assert memory(answer)[3] is None


def test_the_version_does_not_change_in_mid_run(driver, make):
    """A switch would look like a jump by the reserve: once version 2 has answered, its fault is a fault."""
    answer = driver.door(make("1000") + "fault nvmlDeviceGetMemoryInfo_v2 0 2 2 999\n", rounds=3)
    assert memory(answer, turn=1) == {"fault": "unknown_error", "code": 999, "permanent": False}
    assert memory(answer, turn=2) == memory(answer, turn=0)


def test_gb10_has_no_memory_of_its_own(driver, make):
    answer = driver.door(make("0", total=None))
    assert memory(answer) == {"fault": "not_supported", "code": 3, "permanent": True}


def test_a_total_of_zero_is_no_memory_of_its_own(driver, make):
    answer = driver.door(make("0", total=0, reserved=0))
    assert memory(answer)["fault"] == "not_supported"


def test_processes_are_listed_with_their_bytes(driver, make):
    answer = driver.door(make("1000", processes="11:700 12:300"))
    assert answer["looks"][0]["0"]["processes"] == [[11, 700], [12, 300]]


def test_a_driver_that_does_not_say_what_a_process_holds_gives_none(driver, make):
    answer = driver.door(make("1000", processes="11:-"))
    assert answer["looks"][0]["0"]["processes"] == [[11, None]]


def test_no_process_is_an_empty_list_and_no_list_is_a_fault(driver, make):
    assert driver.door(make("1"))["looks"][0]["0"]["processes"] == []
    answer = driver.door(make("1") + "fault nvmlDeviceGetComputeRunningProcesses_v3 0 1 0 4\n")
    assert answer["looks"][0]["0"]["processes"]["fault"] == "no_permission"


MIG = """gpu.0.mig_mode 1 1
gpu.0.mig_max 7
gpu.0.mig.0.uuid MIG-00000000
gpu.0.mig.0.name NVIDIA H100 80GB HBM3 MIG 3g.40gb
gpu.0.mig.0.total 42000000000
gpu.0.mig.0.used 5000
gpu.0.mig.0.processes 77:5000
gpu.0.mig.2.uuid MIG-00000002
gpu.0.mig.2.name NVIDIA H100 80GB HBM3 MIG 1g.10gb
gpu.0.mig.2.total 10000000000
gpu.0.mig.2.used 6000
"""


def test_mig_instances_follow_their_gpu_and_empty_slots_are_passed_over(driver, make):
    answer = driver.door(make("11000", utilization=None) + MIG)
    assert [device[:2] for device in answer["devices"]] == [
        ["0", "GPU-00000000-0000-0000-0000-000000000000"],
        ["0:0", "MIG-00000000"],
        ["0:2", "MIG-00000002"],
    ]
    assert answer["devices"][1][2] == "00000000:09:00.0"
    assert memory(answer, "0:0")[:2] == [42000000000, 5000]
    assert memory(answer, "0:2")[:2] == [10000000000, 6000]
    assert answer["looks"][0]["0:0"]["processes"] == [[77, 5000]]
    assert answer["looks"][0]["0"]["gpu_percent"]["fault"] == "not_supported"


def test_a_mig_instance_is_found_again(driver, make):
    answer = driver.door(make("11000") + MIG, rounds=2, reopen=True)
    assert answer["looks"][1]["reopened"] == {"0": None, "0:0": None, "0:2": None}
    assert memory(answer, "0:2", turn=1)[:2] == [10000000000, 6000]


def test_a_mig_parent_without_permission_still_has_its_instances(driver, make):
    faults = "fault nvmlDeviceGetMemoryInfo_v2 0 1 0 4\nfault nvmlDeviceGetMemoryInfo 0 1 0 4\n"
    answer = driver.door(make("11000") + MIG + faults)
    assert memory(answer)["fault"] == "no_permission"
    assert memory(answer, "0:0")[1] == 5000


@pytest.mark.parametrize(
    ("code", "status"),
    [(15, "lost"), (999, "unknown_error"), (16, "reset_required"), (28, "gpu_not_found"), (4, "no_permission")],
)
def test_a_fault_of_one_gpu_leaves_the_others(driver, make, code, status):
    faults = "".join(
        f"fault {function} 1 2 0 {code}\n" for function in ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMemoryInfo")
    )
    answer = driver.door(make("1", "2", "3") + faults, rounds=2)
    assert memory(answer, "1", turn=0)[1] == 2
    assert memory(answer, "1", turn=1)["fault"] == status
    assert [memory(answer, label, turn=1)[1] for label in "02"] == [1, 3]


def test_a_gpu_whose_handle_is_not_given_is_listed_without_a_uuid(driver, make):
    answer = driver.door(make("1", "2") + "fault nvmlDeviceGetHandleByIndex_v2 0 1 0 999\n")
    assert answer["devices"][0] == ["0", "", "", ""]
    assert memory(answer, "0")["fault"] == "unknown_error"
    assert memory(answer, "1")[1] == 2


def test_a_gpu_that_comes_back_is_found_by_its_uuid(driver, make):
    faults = "fault nvmlDeviceGetMemoryInfo_v2 0 1 1 15\nfault handle 0 1 1 15\n"
    answer = driver.door(make("1000") + faults, rounds=3, reopen=True)
    assert answer["looks"][1]["reopened"]["0"]["fault"] == "lost"
    assert answer["looks"][2]["reopened"]["0"] is None
    assert memory(answer, turn=2)[1] == 1000


def test_a_driver_that_was_let_go_is_started_again(driver, make):
    answer = driver.door(make("1000") + "fault nvmlDeviceGetHandleByUUID * 1 1 1\n", rounds=2, reopen=True)
    assert answer["looks"][1]["reopened"]["0"] is None


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (9, "driver is not loaded"),
        (12, "not on this machine"),
        (18, "different versions"),
        (4, "does not let this user"),
        (15, "fallen off the bus"),
        (999, "does not start"),
    ],
)
def test_a_driver_that_does_not_start_is_one_sentence_and_exit_5(driver, make, code, words):
    answer = driver.door(make("1") + f"init {code}\n")
    assert words in answer["error"]
    assert answer["exit_code"] == 5
    assert not answer["error"].endswith(".")


def test_without_the_drivers_library_the_hint_says_what_to_install(driver):
    answer = driver.door(None)
    assert answer["exit_code"] == 5
    assert "install the NVIDIA driver" in answer["hint"]


def test_not_even_a_count_is_a_fault_and_no_crash(driver, make):
    answer = driver.door(make("1") + "fault nvmlDeviceGetCount_v2 * 1 0 999\n")
    assert answer["devices"]["fault"] == "unknown_error"


def test_text_that_the_driver_does_not_give_is_empty(driver, make):
    answer = driver.door(make("1", name=None, pci=None))
    assert answer["devices"] == [["0", "GPU-00000000-0000-0000-0000-000000000000", "", ""]]


def test_a_slow_call_is_waited_for(driver, make):
    answer = driver.door(make("1000") + "slow nvmlDeviceGetMemoryInfo_v2 0 1 1 300\n")
    assert memory(answer)[1] == 1000


def test_a_look_alike_of_the_binding_is_told_apart(driver, make, tmp_path):
    (tmp_path / "pynvml.py").write_text("nvmlInit = None\n")
    path = f"{tmp_path}:{driver.environment(None)['PYTHONPATH']}"
    answer = json.loads(driver.run(make("1"), "1", program="_door.py", env={"PYTHONPATH": path}).out)
    assert answer["exit_code"] == 5
    assert "not nvidia-ml-py's" in answer["error"]
    assert "pip uninstall" in answer["hint"]


def test_without_the_binding_the_hint_installs_it(driver, make, tmp_path):
    (tmp_path / "pynvml.py").write_text("raise ImportError('not here')\n")
    path = f"{tmp_path}:{driver.environment(None)['PYTHONPATH']}"
    answer = json.loads(driver.run(make("1"), "1", program="_door.py", env={"PYTHONPATH": path}).out)
    assert (answer["exit_code"], answer["hint"]) == (5, "pip install nvidia-ml-py")


def test_the_deprecated_packages_warning_is_not_the_users(driver, make, tmp_path):
    """The package pynvml hooks the import of nvidia-ml-py with a FutureWarning."""
    real = Path(pynvml_file()).read_text(encoding="utf-8")
    shim = "import warnings\nwarnings.warn('The pynvml package is deprecated', FutureWarning, stacklevel=2)\n"
    (tmp_path / "pynvml.py").write_text(real.replace("import os", shim + "import os", 1), encoding="utf-8")
    path = f"{tmp_path}:{driver.environment(None)['PYTHONPATH']}"
    result = driver.run(make("7"), "1", program="_door.py", env={"PYTHONPATH": path, "PYTHONWARNINGS": "error"})
    assert memory(json.loads(result.out))[1] == 7, result.err


def pynvml_file() -> str:
    from importlib.util import find_spec

    spec = find_spec("pynvml")
    assert spec is not None
    return str(spec.origin)
