"""Checks of `vramplan doctor` from facts: no look at the machine is taken here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vramplan.monitor.health import Check, DriverFacts, GpuFacts, Holder, State
from vramplan.planner.probing import Probed
from vramplan.units import GB, format_bytes

_CUDA_BUILD = 'install torch from the index of a CUDA build, as its "Get started" page says'


def driver_checks(
    driver: DriverFacts, profiles: Mapping[str, str | None], *, is_reached: bool = False
) -> Iterator[Check]:
    """The driver, NVML and each GPU.

    Args:
        driver: what NVML says.
        profiles: each GPU name's profile, None where there is none.
        is_reached: whether torch runs kernels: then the driver is there, whatever NVML says.
    """
    state: State = "warn" if is_reached else "fail"
    if driver.error is not None:
        fix = driver.hint or "`nvidia-smi` says more; a reboot mends a driver that was updated while it ran"
        yield Check(id="driver", state=state, what="driver", detail=driver.error, fix=fix)
        return
    cuda = "" if driver.cuda is None else f", runs CUDA up to {driver.cuda[0]}.{driver.cuda[1]}"
    yield Check(id="driver", state="ok", what="driver", detail=f"{driver.version or 'of unknown version'}{cuda}")
    if not driver.gpus:
        fix = "start the container with --gpus all, or look for the card with `lspci`"
        yield Check(id="nvml", state=state, what="NVML", detail="answers, and lists no GPU", fix=fix)
        return
    plural = "" if len(driver.gpus) == 1 else "s"
    yield Check(id="nvml", state="ok", what="NVML", detail=f"answers, and lists {len(driver.gpus)} GPU{plural}")
    for gpu in driver.gpus:
        yield _gpu_check(gpu, profiles.get(gpu.name))


def _gpu_check(gpu: GpuFacts, profile: str | None) -> Check:
    def check(state: str, detail: str, fix: str | None = None) -> Check:
        return Check(id=f"gpu.{gpu.label}", state=state, what=f"GPU {gpu.label}", detail=detail, fix=fix)  # type: ignore[arg-type]

    name = gpu.name or "of unknown name"
    if gpu.total_bytes is None:
        return check("warn", f"{name}: its memory cannot be read ({gpu.error})", "leave it out: CUDA_VISIBLE_DEVICES")
    size = f"{name}, {format_bytes(gpu.total_bytes)} GB"
    others = others_words(gpu)
    if others is not None:
        fix = "end them before measuring, or measure on another card (--device N): a run has only what they leave"
        return check("warn", f"{name}: {others}", fix)
    if profile is None:
        fix = f"give its memory alone: --gpu-mem {gpu.total_bytes // 2**20}MiB"
        return check("warn", f"{size}; there is no profile of it", fix)
    return check("ok", f"{size}; profile {profile}")


_MOST_NAMED = 3
_MOST_IDLE_BYTES = GB
"""What an empty card shows as used by itself, or by a display: up to some hundred MB."""


def others_words(gpu: GpuFacts) -> str | None:
    """What other processes hold of a card, and which; None where nobody holds anything to speak of."""
    if gpu.total_bytes is None or gpu.used_bytes is None:
        return None
    if not gpu.holders and gpu.used_bytes <= _MOST_IDLE_BYTES:
        return None
    used = f"other processes use {format_bytes(gpu.used_bytes)} of its {format_bytes(gpu.total_bytes)} GB"
    if not gpu.holders:
        return f"{used}, and NVML does not list them (another container's, or a display's)"
    named = [_holder_words(one) for one in gpu.holders[:_MOST_NAMED]]
    more = len(gpu.holders) - len(named)
    return f"{used} ({'; '.join(named)}{f'; and {more} more' if more else ''})"


def _holder_words(holder: Holder) -> str:
    size = "" if holder.used_bytes is None else f" {format_bytes(holder.used_bytes)} GB"
    return f"PID {holder.pid}{'' if holder.name is None else f' {holder.name}'}{size}"


def torch_check(version: str | None, probed: Probed | None, driver: DriverFacts) -> Check:
    """Torch's build, and whether it matches the driver; `version` is the installed one, None without any."""

    def fail(detail: str, fix: str) -> Check:
        return Check(id="torch", state="fail", what="torch", detail=detail, fix=fix)

    if version is None or probed is None:
        return fail("not installed", "python3 -m pip install 'vramplan[torch]'")
    if probed.error is not None:
        return fail(
            f"{version} cannot be imported: {probed.error}", "`python3 -c 'import torch'` shows the whole error"
        )
    facts = probed.facts
    if facts["hip"] is not None:
        return fail(f"{facts['version']} is a ROCm build, and vramplan measures NVIDIA GPUs", _CUDA_BUILD)
    if facts["cuda"] is None:
        return fail(f"{facts['version']} is a CPU build: it reaches no GPU", _CUDA_BUILD)
    built = f"{facts['version']}, built with CUDA {facts['cuda']}"
    if driver.cuda is not None and int(facts["cuda"].split(".")[0]) > driver.cuda[0]:
        # A driver runs every CUDA of its own major version and of older ones ("CUDA Compatibility", minor versions).
        wanted = f"install a driver for CUDA {facts['cuda']}, or a torch built with CUDA {driver.cuda[0]}"
        return fail(f"{built}: newer than the driver, which runs up to {driver.cuda[0]}.{driver.cuda[1]}", wanted)
    if facts["error"] is not None:
        return fail(f"{built}: {facts['error']}", "a driver and a torch build that suit the card, as the error says")
    full = facts["full"]
    if full and len(full) == facts["num_devices"]:
        which = "the GPU" if len(full) == 1 else "any GPU"
        fix = "end the processes that fill it: the line of the GPU names them, or `nvidia-smi`"
        return fail(f"{built}: a CUDA context finds no room on {which}", fix)
    if not facts["num_devices"]:
        return fail(f"{built}, sees no GPU", "`echo $CUDA_VISIBLE_DEVICES`: empty or -1 hides all of them")
    num_ran = facts["num_devices"] - len(full)
    ran = f"a kernel ran on {num_ran} GPU{'' if num_ran == 1 else 's'}"
    rest = f", and found no room on {', '.join(f'cuda:{number}' for number in full)}" if full else ""
    return Check(id="torch", state="ok", what="torch", detail=f"{built}; {ran}{rest}")


def bitsandbytes_check(version: str | None, probed: Probed | None) -> Check:
    """Whether bitsandbytes loads its native library, in its own words where it does not."""

    def check(state: str, detail: str, fix: str | None = None) -> Check:
        return Check(id="bitsandbytes", state=state, what="bitsandbytes", detail=detail, fix=fix)  # type: ignore[arg-type]

    if version is None:
        return check("fail", "not installed", "python3 -m pip install 'vramplan[torch]'")
    if probed is None:
        return check("warn", f"{version}, not tried: torch is not installed", "install torch first")
    if probed.error is not None:
        fix = "`python3 -m bitsandbytes` diagnoses it; 8-bit and 4-bit cannot be measured until then"
        return check("warn", f"{version} cannot be imported: {probed.error}", fix)
    facts = probed.facts
    if facts["error"] is not None:
        fix = "`python3 -m bitsandbytes` diagnoses it; 8-bit and 4-bit cannot be measured until then"
        return check("warn", f"{facts['version']} loads no native library: {facts['error']}", fix)
    backend = "its CUDA library" if facts["compiled_with_cuda"] else "its CPU library"
    return check("ok", f"{facts['version']} loads {backend}")


def library_check(name: str, version: str | None, *, newest: str, is_unread: bool, needed: bool, use: str) -> Check:
    """A library of which only the version counts.

    Args:
        name: of the package.
        version: installed, or None.
        newest: the newest that its stack profile was read from.
        is_unread: whether the installed one is newer than that.
        needed: whether nothing can be measured or simulated without it.
        use: what it is for, where it is optional.
    """
    if version is None and needed:
        fix = "python3 -m pip install 'vramplan[torch]'"
        return Check(id=name, state="fail", what=name, detail="not installed", fix=fix)
    if version is None:
        return Check(id=name, state="ok", what=name, detail=f"not installed; only {use} needs it")
    if is_unread:
        fix = f"plan for a version that was read: --stack {name}={newest}"
        detail = f"{version} is newer than {newest}, the newest whose behaviour was read"
        return Check(id=name, state="warn", what=name, detail=detail, fix=fix)
    return Check(id=name, state="ok", what=name, detail=f"{version}, its behaviour is known")
