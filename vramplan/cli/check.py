"""`vramplan check`: what a run's own files get wrong, before a GPU is rented."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vramplan.cli import _terminal
from vramplan.cli._answer import find_profiles
from vramplan.cli.exit_codes import ExitCode
from vramplan.cli.options import AsJson, ProfileDirFlag
from vramplan.errors import UsageError
from vramplan.runfiles.flat import parse_flat_flags

if TYPE_CHECKING:
    from vramplan.catalog.dirs import ProfileDirs
    from vramplan.planner.check.run import Checked
    from vramplan.runfiles.flat import FlatRun


def check_command(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE…", help="Run files, launchers' files beside them, scripts with the command."),
    ] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Also write NAME.fixed.yaml beside NAME.yaml.")] = False,
    hints: Annotated[bool, typer.Option("--hints", help="Also what to do, under each finding.")] = False,
    explain: Annotated[str | None, typer.Option("--explain", metavar="RULE", help="What a rule means.")] = None,
    select: Annotated[str | None, typer.Option("--select", metavar="RULES", help="Only these: VP006,VP04.")] = None,
    ignore: Annotated[str | None, typer.Option("--ignore", metavar="RULES", help="All but these.")] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", metavar="PROFILE", help="The card: h100-80gb, t4, …")] = None,
    gpu_mem: Annotated[str | None, typer.Option("--gpu-mem", metavar="SIZE", help="The budget: 85, 80GiB.")] = None,
    num_gpus: Annotated[str | None, typer.Option("--num-gpus", metavar="N", help="Training processes.")] = None,
    sharding: Annotated[str | None, typer.Option("--sharding", metavar="NAME", help="ddp, zero3, …")] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="ID", help="What a local path stands for.")] = None,
    stack: Annotated[str | None, typer.Option("--stack", metavar="PKG=V,PKG=V", help="Library versions.")] = None,
    as_json: AsJson = False,
    profile_dir: ProfileDirFlag = None,
) -> None:
    """Say what a run's settings get wrong: one line a finding, `file:key RULE message`.

    Reads RLT's Hydra files, TRL's YAML, TrainingArguments, accelerate and DeepSpeed files, scripts and our own TOML.
    A launcher's file named beside a run gives it its number of processes.
    """
    if explain is not None:
        _explain(explain)
        return
    if not files:
        raise UsageError("no file is given", hint="vramplan check cfgs/run_cfg/teacher_rlt.yaml")
    if fix and as_json:
        raise UsageError("--fix and --json cannot go together", hint="give one of them")
    from vramplan.planner.check.registry import choose
    from vramplan.planner.check.run import check_files

    flags = {"gpu": gpu, "gpu-mem": gpu_mem, "num-gpus": num_gpus, "sharding": sharding, "stack": stack, "model": model}
    over = parse_flat_flags({name: value for name, value in flags.items() if value is not None})
    chosen, dirs = choose(_names(select), _names(ignore)), find_profiles(profile_dir)
    paths = [Path(name) for name in dict.fromkeys(files)]
    checked = check_files(paths, over=over, chosen=chosen, dirs=dirs)
    _print(checked, as_json=as_json, hints=hints)
    if fix:
        _fix(paths, checked, over, chosen, dirs)
    raise typer.Exit(_code(checked))


check_command.plain_options = True  # type: ignore[attr-defined]


def _explain(name: str) -> None:
    from vramplan.output.check_report import render_rule
    from vramplan.planner.check.registry import find_rule

    _terminal.write_answer(render_rule(find_rule(name), width=_terminal.columns()))


def _names(text: str | None) -> list[str]:
    return [name for name in (text or "").split(",") if name.strip()]


def _print(checked: Checked, *, as_json: bool, hints: bool) -> None:
    for file in checked.files:
        if file.error is not None:
            _terminal.say_error(*file.error)
    for note in checked.notes:
        _terminal.say(f"note: {note}")
    if as_json:
        import json

        from vramplan.output.check_json import check_document

        _terminal.write_answer(json.dumps(check_document(checked.files), indent=2, ensure_ascii=False) + "\n")
        return
    from vramplan.output.check_report import render_findings

    if any(file.error is None for file in checked.files):
        _terminal.write_answer(render_findings(checked.files, colour=_terminal.has_colour(), hints=hints))
    found = [finding for file in checked.files for finding in file.findings]
    if found:
        fixable = sum(finding.fixed is not None for finding in found)
        mend = f"; --fix mends {fixable} of these in a copy" if fixable else ""
        _terminal.say(f"hint: `vramplan check --explain {found[0].rule}` says what a rule means{mend}")


def _fix(paths: Sequence[Path], checked: Checked, over: FlatRun, chosen: frozenset[str], dirs: ProfileDirs) -> None:
    """Write corrected copies, and say what is still wrong with them."""
    from vramplan.cli._files import write_file
    from vramplan.planner.check.fix import corrected
    from vramplan.planner.check.run import check_files

    copies = [corrected(file, [other for other in checked.files if other is not file]) for file in checked.files]
    for copy in copies:
        if copy is not None and copy.path.exists():
            raise UsageError(f"{copy.path} is there already", hint="move it away: --fix writes over nothing")
    if not any(copies):
        _terminal.say("note: nothing here can be mended without a choice of yours")
        return
    for copy in copies:
        if copy is not None:
            try:
                write_file(str(copy.path), copy.text)
            except UsageError:
                copy.path.unlink(missing_ok=True)  # half a copy would be in the way of the next --fix
                raise
    mended = [copy.path if copy is not None else path for copy, path in zip(copies, paths, strict=True)]
    again = check_files(mended, over=over, chosen=chosen, dirs=dirs)
    before, after = (sum(len(file.findings) for file in one.files) for one in (checked, again))
    _terminal.say(f"note: with the copies {after} of {before} problems are left")


def _code(checked: Checked) -> ExitCode:
    if any(file.error is not None for file in checked.files):
        return ExitCode.USAGE
    return ExitCode.DOES_NOT_FIT if any(file.findings for file in checked.files) else ExitCode.DONE
