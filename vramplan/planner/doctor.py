"""Looking over a machine: what works on it, and what measuring lacks."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata

from vramplan.catalog.dirs import SUFFIXES, ProfileDirs
from vramplan.catalog.gpus import find_gpu, load_gpu
from vramplan.catalog.stacks import load_stack
from vramplan.catalog.toml_file import read_toml
from vramplan.errors import UsageError
from vramplan.monitor.health import Check, Diagnosis, DriverFacts, look_at_driver
from vramplan.planner.doctor_rules import bitsandbytes_check, driver_checks, library_check, torch_check
from vramplan.planner.probing import Probed, probe
from vramplan.planner.simulated import NEEDED

_OPTIONAL = {"trl": "log-probabilities as TRL takes them", "vllm": "a vLLM rollout"}
_PROBED = ("torch", "bitsandbytes")
_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE")


def diagnose(
    find_dirs: Callable[[], ProfileDirs],
    *,
    look: Callable[[], DriverFacts] = look_at_driver,
    ask: Callable[[tuple[str, ...]], Mapping[str, Probed]] = probe,
) -> Diagnosis:
    """Look the machine over. Nothing is asked of the network.

    Args:
        find_dirs: finds the profile folders; its UsageError becomes a line.
        look: asks the driver.
        ask: asks libraries, each in a process of its own.
    """
    driver = look()
    dirs, profiles = _profiles(find_dirs)
    versions = {name: _installed(name) for name in (*NEEDED, *_OPTIONAL)}
    present = tuple(name for name in _PROBED if versions[name] is not None and versions["torch"] is not None)
    probed = ask(present)
    names = {} if dirs is None else {gpu.name: _gpu_profile(gpu.name, dirs) for gpu in driver.gpus}
    torch = torch_check(versions["torch"], probed.get("torch"), driver)
    checks = (
        *driver_checks(driver, names, is_reached=torch.state == "ok"),
        torch,
        bitsandbytes_check(versions["bitsandbytes"], probed.get("bitsandbytes")),
        *_library_checks(versions, dirs),
        Check(id="python", state="ok", what="Python", detail=f"{platform.python_version()} on {platform.system()}"),
        _hub_check(),
        *profiles,
    )
    failed = {check.id for check in checks if check.state == "fail"}
    imports = probed.get("torch") is not None and probed["torch"].error is None
    return Diagnosis(
        checks=checks,
        driver=driver,
        versions=versions,
        can_measure=not failed,
        can_simulate=imports and not failed & {*NEEDED, "profiles"} - {"torch"},
        can_log=driver.error is None and bool(driver.gpus),
    )


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _gpu_profile(name: str, dirs: ProfileDirs) -> str | None:
    try:
        return find_gpu(name, dirs).name
    except UsageError:
        return None


def _library_checks(versions: Mapping[str, str | None], dirs: ProfileDirs | None) -> Iterator[Check]:
    if dirs is None:
        return
    unread = load_stack({}, dirs).unread
    for name, version in versions.items():
        if name in _PROBED and name not in unread:
            continue  # the line that probing made says all there is
        check = library_check(
            name,
            version,
            newest=read_toml(dirs.find("stacks", name).path).string("newest"),
            is_unread=name in unread,
            needed=name in NEEDED,
            use=_OPTIONAL.get(name, ""),
        )
        yield check


def _hub_check() -> Check:
    from vramplan.sources.hub import is_offline

    values = {name: os.environ.get(name) for name in _VARIABLES}
    named = ", ".join(f"{name}={value}" for name, value in values.items() if value)
    state = "offline: models come from profiles, folders and the cache" if is_offline() else "online, not tried"
    return Check(id="hub", state="ok", what="Hub", detail=f"{state} ({named or 'no variable is set'})")


def _profiles(find_dirs: Callable[[], ProfileDirs]) -> tuple[ProfileDirs | None, tuple[Check, ...]]:
    try:
        dirs = find_dirs()
    except UsageError as error:
        fix = error.hint or "mend or unset it: every command reads it first"
        return None, (Check(id="profiles", state="fail", what="profiles", detail=error.message, fix=fix),)
    return dirs, tuple(_profile_checks(dirs))


def _profile_checks(dirs: ProfileDirs) -> Iterator[Check]:
    folders = ", ".join(str(folder) for folder in dirs.user)
    detail = f"shipped ones, then {folders}" if folders else f"shipped ones only ({dirs.shipped})"
    yield Check(id="profiles", state="ok", what="profiles", detail=detail)
    for kind in SUFFIXES:
        for name in dirs.names(kind):
            found = dirs.find(kind, name)
            if found.note is not None:
                yield Check(id=f"profiles.{kind}.{name}", state="ok", what="profiles", detail=found.note)
            if kind == "gpus" and dirs.shipped not in found.path.parents:
                yield from _unreadable(name, dirs)


def _unreadable(name: str, dirs: ProfileDirs) -> Iterator[Check]:
    try:
        load_gpu(name, dirs)
    except UsageError as error:
        fix = error.hint or "mend the file, or delete it"
        yield Check(id=f"profiles.gpus.{name}.file", state="warn", what="profiles", detail=error.message, fix=fix)
