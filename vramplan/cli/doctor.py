"""`vramplan doctor`: what works on this machine, and what does not."""

from __future__ import annotations

import typer

from vramplan.cli import _terminal
from vramplan.cli._answer import find_profiles
from vramplan.cli.exit_codes import ExitCode
from vramplan.cli.options import AsJson, ProfileDirFlag


def doctor_command(*, as_json: AsJson = False, profile_dir: ProfileDirFlag = None) -> None:
    """Look over driver, GPUs, torch, bitsandbytes and profiles, each with a fix; exit 5 if measuring would not work."""
    from vramplan.output.doctor_report import diagnosis_to_dict, render_diagnosis
    from vramplan.planner.doctor import diagnose

    found = diagnose(lambda: find_profiles(profile_dir))
    if as_json:
        import json

        text = json.dumps(diagnosis_to_dict(found), indent=2) + "\n"
    else:
        text = render_diagnosis(found, width=_terminal.columns(), colour=_terminal.has_colour())
    _terminal.write_answer(text)
    raise typer.Exit(ExitCode.DONE if found.can_measure else ExitCode.NO_HARDWARE)


doctor_command.plain_options = True  # type: ignore[attr-defined]
