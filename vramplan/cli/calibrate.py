"""`vramplan calibrate`: a card's constants, fitted to records, into a profile of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vramplan.catalog import ProfileDirs
from vramplan.cli import _terminal
from vramplan.cli._answer import answer_run, find_profiles, with_profile
from vramplan.cli._report import choose_output
from vramplan.cli.exit_codes import ExitCode
from vramplan.cli.options import AsJson, ProfileDirFlag, Units
from vramplan.core.device import Gpu
from vramplan.errors import UsageError, VramplanError
from vramplan.planner.calibrate import card_of, fit_cards
from vramplan.records.calibration import Observation, observe, why_not_observed
from vramplan.records.measured_rows import run_of
from vramplan.records.record import Record
from vramplan.runfiles.flat import parse_flat


def calibrate_command(
    records: Annotated[
        list[str] | None,
        typer.Argument(metavar="RECORDS", help="Files or folders of records (those of the profile folders)."),
    ] = None,
    *,
    output: Annotated[
        str | None, typer.Option("--output", metavar="DIR", help="Write to DIR/gpus, not the user's profile folder.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Fit and say, and write nothing.")] = False,
    as_json: AsJson = False,
    units: Units = "GB",
    profile_dir: ProfileDirFlag = None,
) -> None:
    """Fit context, libraries, workspaces and bands of each GPU to records; estimates then use them by name.

    Each number is judged on records that it was not fitted to. Too few records change nothing, and exit 3.
    """
    from vramplan.output.calibration_report import calibration_to_dict, render_calibration

    form = choose_output(as_json=as_json, as_csv=False, as_markdown=False, units=units, explain=False)
    dirs = find_profiles(profile_dir)
    observations, cards = _observations(_read(records or [], dirs), dirs)
    fits = fit_cards(observations, cards)
    folder = _folder(output)
    written = [] if dry_run else [_write(one.profile, folder) for one in fits if one.profile is not None]
    if form.form == "json":
        import json

        text = json.dumps(calibration_to_dict(fits, written=written, dry_run=dry_run), indent=2) + "\n"
    else:
        text = render_calibration(fits, units=form.units, width=_terminal.columns(), dry_run=dry_run)
    _terminal.write_answer(text)
    _say_written(written, folder, dirs)
    raise typer.Exit(ExitCode.DONE if any(one.found.is_enough for one in fits) else ExitCode.DOES_NOT_FIT)


calibrate_command.plain_options = True  # type: ignore[attr-defined]


def _read(paths: list[str], dirs: ProfileDirs) -> list[Record]:
    from vramplan.records.store import read_records

    places = [Path(path) for path in paths] or [
        folder / "measurements" for folder in (dirs.shipped, *dirs.user) if (folder / "measurements").is_dir()
    ]
    for place in places:
        if not place.exists():
            raise UsageError(f"{place} is not there", hint="give files or folders of records")
    # The same record in two files is one.
    return list({record.hash: record for place in places for record in read_records(place)}.values())


def _observations(records: list[Record], dirs: ProfileDirs) -> tuple[list[Observation], dict[str, Gpu]]:
    found: list[Observation] = []
    cards: dict[str, Gpu] = {}
    for record in records:
        reason = why_not_observed(record)
        if reason is None and record.gpu.name not in cards:
            card = card_of(record.gpu, dirs)
            if card is not None:
                cards[record.gpu.name] = card
        if reason is None and record.gpu.name not in cards:
            reason = f"{record.gpu.name} has no profile, and the record does not say enough for one"
        if reason is not None:
            _terminal.say(f"note: left out: {record.id}: {reason}")
            continue
        found.append(_observe(record, cards[record.gpu.name], dirs))
    return found, cards


def _observe(record: Record, card: Gpu, dirs: ProfileDirs) -> Observation:
    """The record with an estimate of its run on that card; without one where none can be made."""
    if dirs.lookup("gpus", card.name) is None:
        return observe(record, None, None)
    try:
        run = {key: value for key, value in run_of(record).items() if key != "gpu_mem"} | {"gpu": card.name}
        asked = with_profile(parse_flat(run, record.id), dirs)
        return observe(record, answer_run(asked, dirs), card)
    except VramplanError as error:
        _terminal.say(f"note: {record.id} has no estimate: {error.message}")
        return observe(record, None, None)


def _folder(output: str | None) -> Path:
    from vramplan.catalog.dirs import user_config_folder

    return user_config_folder() if output is None else Path(output).expanduser()


def _write(profile: Gpu, folder: Path) -> str:
    from vramplan.catalog.gpu_file import write_gpu

    path = folder / "gpus" / f"{profile.name}.toml"
    write_gpu(profile, path)
    return str(path)


def _say_written(written: list[str], folder: Path, before: ProfileDirs) -> None:
    for path in written:
        _terminal.say(f"written: {path}")
    if not written:
        return
    from vramplan.catalog import profile_dirs

    in_use = profile_dirs().user  # the folder may have been made just now
    if folder not in (*in_use, *before.user):
        _terminal.say(f"hint: estimates read it with --profile-dir {folder}, or VRAMPLAN_PROFILES={folder}")
        return
    for path in written:
        found = ProfileDirs(shipped=before.shipped, user=in_use).lookup("gpus", Path(path).stem)
        if found is not None and found.path != Path(path) and folder in in_use:
            _terminal.say(f"warning: {found.path} hides it")
