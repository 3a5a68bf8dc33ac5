from __future__ import annotations

import pytest

from vramplan.errors import UsageError
from vramplan.monitor.devices import cuda_ordinals, select_devices
from vramplan.monitor.sample import Device

FIRST = Device(index=0, uuid="GPU-aaaa1111", pci_bus_id="00000000:0C:00.0", name="A")
SECOND = Device(index=1, uuid="GPU-aaaa2222", pci_bus_id="00000000:0D:00.0", name="A")
INSTANCE = Device(index=1, mig_index=0, uuid="MIG-bbbb", pci_bus_id="00000000:0D:00.0", name="A MIG 1g")
OTHER = Device(index=2, uuid="GPU-cccc", pci_bus_id="00000001:0C:00.0", name="B")
ALL = (FIRST, SECOND, INSTANCE, OTHER)


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("0", FIRST),
        ("1", SECOND),
        ("1:0", INSTANCE),
        ("GPU-aaaa1", FIRST),
        ("MIG-b", INSTANCE),
        ("00000000:0C:00.0", FIRST),
        ("0000:0d:00.0", SECOND),
        ("0d:00", SECOND),
        ("00000001:0C:00", OTHER),
    ],
)
def test_every_way_of_naming_a_gpu(selector, expected):
    assert select_devices(ALL, [selector]) == (expected,)


def test_none_means_all_and_the_order_is_nvmls():
    assert select_devices(ALL, []) == ALL
    assert select_devices(ALL, ["2,0", "GPU-cccc"]) == (FIRST, OTHER)


@pytest.mark.parametrize("selector", ["7", "GPU-x", "GPU-aaaa", "99:00", "a b"])
def test_what_fits_none_or_several_is_refused(selector):
    with pytest.raises(UsageError):
        select_devices(ALL, [selector])


def test_a_gpu_without_a_uuid_is_never_chosen_by_one():
    with pytest.raises(UsageError):
        select_devices((Device(index=0),), ["GPU-"])


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, {FIRST: 0, SECOND: 1}),
        ("1,0", {SECOND: 0, FIRST: 1}),
        ("GPU-aaaa2222", {SECOND: 0}),
        ("gpu-aaaa2", {SECOND: 0}),
        ("0,9,1", {FIRST: 0}),
        ("0,-1,1", {FIRST: 0}),
        ("0,0", {}),
        ("", {}),
        ("GPU-aaaa", {}),
    ],
)
def test_cuda_numbers_devices_as_it_does_itself(visible, expected):
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert cuda_ordinals((FIRST, SECOND), environment) == expected


def test_with_different_gpus_an_index_is_certain_only_in_pci_order():
    devices = (FIRST, OTHER)
    assert cuda_ordinals(devices, {"CUDA_VISIBLE_DEVICES": "0"}) == {}
    assert cuda_ordinals(devices, {}) == {}
    assert cuda_ordinals(devices, {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}) == {FIRST: 0}
    assert cuda_ordinals(devices, {"CUDA_VISIBLE_DEVICES": "GPU-cccc"}) == {OTHER: 0}


def test_cuda_sees_one_mig_instance():
    more = Device(index=1, mig_index=1, uuid="MIG-cccc")
    assert cuda_ordinals((SECOND, INSTANCE, more), {"CUDA_VISIBLE_DEVICES": "MIG-bbbb,MIG-cccc"}) == {INSTANCE: 0}
