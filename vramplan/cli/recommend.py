"""`vramplan recommend`: settings that fit a budget, from conservative to aggressive."""

from __future__ import annotations

from typing import Annotated

import typer

from vramplan.cli import _terminal
from vramplan.cli._answer import find_profiles, with_profile
from vramplan.cli._files import check_parent, write_file
from vramplan.cli._progress import progress_bar
from vramplan.cli._report import choose_output
from vramplan.cli.exit_codes import ExitCode
from vramplan.cli.options import OUTPUT, AsJson, Explain, ProfileDirFlag, Units, run_flags
from vramplan.core.recommendation import Recommendation, Recommended
from vramplan.errors import UsageError
from vramplan.planner.preference import PREFERENCES
from vramplan.runfiles.flat import FlatRun, parse_flat
from vramplan.runfiles.runfile import Tool

SEARCH = "Search"
TOOLS = {"rlt": Tool.RLT, "trl": Tool.TRL, "accelerate": Tool.ACCELERATE, "toml": Tool.OWN}

Free = Annotated[
    list[str] | None,
    typer.Option("--free", metavar="SETTING,…", help="Choose these although given.", rich_help_panel=SEARCH),
]
Fix = Annotated[
    list[str] | None,
    typer.Option(
        "--fix", metavar="SETTING,…", help="Hold these at the profile's value or the default.", rich_help_panel=SEARCH
    ),
]
Prefer = Annotated[
    str | None,
    typer.Option("--prefer", metavar="|".join(PREFERENCES), help="What counts more.", rich_help_panel=SEARCH),
]
Write = Annotated[
    str | None,
    typer.Option("--write", metavar="|".join(TOOLS), help="Write a run as such a file.", rich_help_panel=OUTPUT),
]
Place = Annotated[
    str | None, typer.Option("--output", "-o", metavar="FILE", help="Where --write writes.", rich_help_panel=OUTPUT)
]
Pick = Annotated[
    str | None,
    typer.Option(
        "--pick",
        metavar="conservative|balanced|aggressive",
        help="Which run --write writes; balanced without it.",
        rich_help_panel=OUTPUT,
    ),
]


@run_flags
def recommend_command(
    flat: FlatRun,
    *,
    free: Free = None,
    fix: Fix = None,
    prefer: Prefer = None,
    explain: Explain = False,
    write: Write = None,
    place: Place = None,
    pick: Pick = None,
    as_json: AsJson = False,
    units: Units = "GB",
    profile_dir: ProfileDirFlag = None,
) -> None:
    """Choose batch, generations, context and precision for a budget: three runs, the frontier, and the walls.

    Settings given as flags hold; the others are searched, whatever the run profile says of them. --explain says why
    larger settings fail and which single change would let them fit.
    """
    output = choose_output(as_json=as_json, as_csv=False, as_markdown=False, units=units, explain=False)
    _check(prefer, write, place, pick)
    check_parent(place)
    dirs = find_profiles(profile_dir)
    asked = with_profile(flat, dirs)
    from vramplan.planner.recommend import recommend

    with progress_bar("searching") as progress:
        found = recommend(
            flat,
            asked.flat,
            profile_dirs=dirs,
            free=_words(free),
            fix=_words(fix),
            prefer=prefer,
            explain=explain,
            progress=progress,
        )
    if asked.shadowing is not None:
        _terminal.say(f"note: {asked.shadowing}")
    _print(found, as_json=as_json, units=output.units)
    if write is not None and place is not None and found.recommended:
        _write(_picked(found, pick), TOOLS[write], place)
    raise typer.Exit(ExitCode.DONE if found.recommended else ExitCode.DOES_NOT_FIT)


def _check(prefer: str | None, write: str | None, place: str | None, pick: str | None) -> None:
    if prefer is not None and prefer not in PREFERENCES:
        raise UsageError(f"--prefer must be one of {', '.join(PREFERENCES)}, not {prefer!r}")
    if write is not None and write not in TOOLS:
        raise UsageError(f"--write must be one of {', '.join(TOOLS)}, not {write!r}")
    if (write is None) != (place is None):
        raise UsageError("--write and --output go together", hint="--write trl -o run.yaml")
    names = ("conservative", "balanced", "aggressive")
    if pick is not None and pick not in names:
        raise UsageError(f"--pick must be one of {', '.join(names)}, not {pick!r}")
    if pick is not None and write is None:
        raise UsageError("--pick chooses what --write writes", hint="add --write trl -o run.yaml")


def _words(values: list[str] | None) -> tuple[str, ...]:
    return tuple(word.strip().replace("-", "_") for value in values or () for word in value.split(",") if word.strip())


def _print(found: Recommendation, *, as_json: bool, units: str) -> None:
    if as_json:
        from vramplan.output.recommend_json import render_recommend_json

        _terminal.write_answer(render_recommend_json(found))
        return
    from vramplan.output.recommend_report import render_recommendation

    _terminal.write_answer(
        render_recommendation(
            found,
            units=units,
            width=_terminal.columns(),
            colour=_terminal.has_colour(),
            only_ascii=_terminal.only_ascii(),
        )
    )


def _picked(found: Recommendation, pick: str | None) -> Recommended:
    name = pick or found.walls_of
    for one in found.recommended:
        if one.name == name:
            return one
    raise UsageError(
        f"there is no {name} run in this budget",
        hint=f"there is {', '.join(one.name for one in found.recommended)}",
    )


def _write(run: Recommended, tool: Tool, path: str) -> None:
    from vramplan.runfiles.writer import write_run_file

    text = write_run_file(parse_flat(run.run, run.name), tool)
    write_file(path, text.text)
    if text.left_out:
        _terminal.say(f"note: {tool.value} files have no word for {', '.join(text.left_out)}")
