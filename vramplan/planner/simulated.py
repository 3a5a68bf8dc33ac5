"""From flat settings to a report by running the real code on fake tensors."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from vramplan.catalog.dirs import ProfileDirs
from vramplan.core.report import MemoryReport
from vramplan.errors import NoHardwareError
from vramplan.planner.answer import load_model, prepare
from vramplan.planner.report_of import report_of
from vramplan.runfiles.flat import FlatRun

NEEDED = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")
"""The packages of the extra `[torch]` that a simulation runs."""


def simulate_run(
    flat: FlatRun,
    *,
    profile_dirs: ProfileDirs,
    run_id: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> MemoryReport:
    """Simulate a run.

    Args:
        flat: its settings.
        profile_dirs: where profiles lie.
        run_id: the id to hand back.
        progress: is told what is being done.

    Raises:
        NoHardwareError: the extra `[torch]` is not installed.
        VramplanError: a setting, a model or a card is not known, or the run cannot exist.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise NoHardwareError(
            f"simulate runs the real code and needs {', '.join(missing)}",
            hint="python3 -m pip install 'vramplan[torch]', or use `vramplan estimate`",
        )
    prepared = prepare(flat, profile_dirs)
    setting = prepared[0]
    configs = {
        role.name: load_model(role.model, profile_dirs, flat.architecture).source.config for role in setting.run.roles
    }
    # Imported here: torch and transformers take seconds to load, and an estimate must not wait for them.
    from vramplan.program.simulate import simulate

    simulation = simulate(setting.run, configs, gpu=setting.gpu, stack=setting.stack, progress=progress)
    return report_of(flat, prepared, simulation.phases, how="simulate", profile_dirs=profile_dirs, run_id=run_id)
