"""The device that runs are measured on: found, named, and known to work before the first run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata

from vramplan.catalog.dirs import ProfileDirs
from vramplan.catalog.gpus import load_gpu
from vramplan.errors import NoHardwareError, UsageError
from vramplan.monitor.faults import NoDriverError
from vramplan.monitor.health import DriverFacts, look_at_driver
from vramplan.monitor.nvml import open_nvml
from vramplan.planner.device_eye import Card, NvmlSight, Sight, find_device
from vramplan.planner.doctor_rules import bitsandbytes_check, others_words, torch_check
from vramplan.planner.probing import Probed, probe

TEST_DEVICE = "VRAMPLAN_TEST_DEVICE"
"""`cpu`, or `cpu:BYTES`: measure on an allocator model of that size instead of a card. For tests; no truth in it."""
_ROOM = "end them, or measure on another card: --device N; `vramplan simulate` runs the same code without a GPU"
_USE_SIMULATE = "`vramplan simulate` runs the same code without a GPU"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where runs are measured.

    Args:
        device: `cuda`, or `cpu` for tests.
        card: the card, None where NVML does not answer or there is none.
        sight: reads its used memory, or None.
        profile: the name of its profile, or None.
        visible: what CUDA_VISIBLE_DEVICES must be for a process to see it alone where NVML does not say, or None.
        capacity_bytes: on a CPU, what the allocator model may reserve, or None.
        note: what to know of it, or None.
        bitsandbytes: why bitsandbytes cannot be used here, in its own words, or None.
        fix: what to do about that, or None.
    """

    device: str
    card: Card | None = None
    sight: Sight | None = None
    profile: str | None = None
    visible: str | None = None
    capacity_bytes: int | None = None
    note: str | None = None
    bitsandbytes: str | None = None
    fix: str | None = None

    @property
    def gpu_name(self) -> str:
        """As records and their folder have it."""
        return self.device if self.card is None else self.card.name


def open_bench(
    number: int,
    dirs: ProfileDirs,
    *,
    environment: Mapping[str, str] | None = None,
    look: Callable[[], DriverFacts] = look_at_driver,
    ask: Callable[[tuple[str, ...]], Mapping[str, Probed]] = probe,
) -> Bench:
    """The device of that number, once torch has run a kernel on it.

    Args:
        number: as CUDA counts here.
        dirs: where GPU profiles lie.
        environment: of this process; None takes the real one.
        look: asks the driver.
        ask: asks torch and bitsandbytes, each in a process of its own.

    Raises:
        NoHardwareError: there is no GPU, no driver, or a torch that reaches none: the sentence says which.
        UsageError: there is no GPU of that number.
    """
    variables = os.environ if environment is None else environment
    test = variables.get(TEST_DEVICE)
    if test is not None:
        return _test_bench(test)
    driver, version = look(), _installed("torch")
    probed: Mapping[str, Probed]
    if version is not None and version.endswith("+cpu"):  # its name says it: no need to import it to find out
        probed = {"torch": Probed(facts={"version": version, "cuda": None, "hip": None})}
    else:
        probed = ask(tuple(name for name in ("torch", "bitsandbytes") if _installed(name) is not None))
    torch = torch_check(version, probed.get("torch"), driver)
    facts = probed["torch"].facts if "torch" in probed else {}
    if number in facts.get("full", ()):
        raise NoHardwareError(_full_card(number, driver, variables), hint=_ROOM)
    if torch.state == "fail":
        # Without a driver, that is what is wrong, unless this torch could not use one anyway.
        cause = f"torch {torch.detail}"
        if driver.error is not None and "CPU build" not in torch.detail and "not installed" not in torch.detail:
            cause = driver.error
        also = f"; {driver.error}" if driver.error is not None and driver.error != cause else ""
        fix = driver.hint if cause == driver.error else torch.fix
        raise NoHardwareError(f"nothing can be measured: {cause}{also}", hint=f"{_USE_SIMULATE}; or {fix}")
    library = bitsandbytes_check(_installed("bitsandbytes"), probed.get("bitsandbytes"))
    refused = None if library.state == "ok" else library.detail
    try:
        door = open_nvml()
    except NoDriverError as error:
        note = f"what the whole card uses is not known: {error.message}"
        visible = _visible(number, probed["torch"].facts["num_devices"], variables)
        return Bench(device="cuda", visible=visible, note=note, bitsandbytes=refused, fix=library.fix)
    device = find_device(door, number, variables)
    sight = NvmlSight(door, device)
    card = sight.card()
    others = next((others_words(gpu) for gpu in driver.gpus if gpu.label == device.label), None)
    return Bench(
        device="cuda",
        card=card,
        sight=sight,
        profile=_profile(card.name, dirs),
        note=None if others is None else f"on this card {others}: the run had only what they left",
        bitsandbytes=refused,
        fix=library.fix,
    )


def _full_card(number: int, driver: DriverFacts, variables: Mapping[str, str]) -> str:
    """The sentence for a card on which not even a context finds room."""
    try:
        label = find_device(open_nvml(), number, variables).label
    except (NoDriverError, UsageError):
        label = None
    words = next((others_words(gpu) for gpu in driver.gpus if gpu.label == label), None)
    why = "other processes fill it (`nvidia-smi` on the host lists them)" if words is None else words
    return f"nothing can be measured on GPU {number}: {why}, and a CUDA context finds no room beside them"


def _visible(number: int, num_devices: int, variables: Mapping[str, str]) -> str:
    """That device alone, as CUDA counts here, where NVML gives no card a name."""
    if number >= num_devices:
        raise UsageError(f"there is no GPU {number}", hint=f"--device takes 0 to {num_devices - 1}: torch sees so many")
    listed = variables.get("CUDA_VISIBLE_DEVICES")
    return str(number) if listed is None else listed.split(",")[number].strip()


def _test_bench(text: str) -> Bench:
    name, _, size = text.partition(":")
    if name != "cpu" or not (size.isdigit() or not size):
        raise UsageError(f"{TEST_DEVICE} must be cpu or cpu:BYTES, not {text!r}")
    return Bench(
        device="cpu",
        capacity_bytes=int(size) if size else None,
        note="measured on a CPU through a model of the allocator: for tests, not for records",
    )


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _profile(name: str, dirs: ProfileDirs) -> str | None:
    try:
        return load_gpu(name, dirs).name
    except UsageError:
        return None
