"""`vramplan check`: files in, findings out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vramplan.catalog.dirs import ProfileDirs
from vramplan.catalog.gpus import load_gpu, nearest_gpu
from vramplan.catalog.stacks import load_stack
from vramplan.core.device import Gpu
from vramplan.errors import CannotTellError, UsageError
from vramplan.planner.check.carried import carried
from vramplan.planner.check.finding import CheckFinding, Needs
from vramplan.planner.check.reading import Read, read
from vramplan.planner.check.registry import RULES
from vramplan.planner.check.scripts import check_script
from vramplan.planner.check.subject import LAUNCHERS, Estimated, Subject
from vramplan.runfiles.flat import FlatRun
from vramplan.runfiles.runfile import RunFile, Tool

# Rules that need settings only, not the run that they make.
_OF_CONTRADICTIONS = frozenset({"VP052", "VP054"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedFile:
    """What was found in one file that was named.

    Args:
        path: as it was named.
        tool: whose it is; None for documents, and where it could not be read.
        findings: by file and line.
        error: the sentence and the hint of why it could not be read, or None.
    """

    path: Path
    tool: str | None
    findings: tuple[CheckFinding, ...] = ()
    error: tuple[str, str | None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What was found in all files.

    Args:
        files: in the order they were named.
        notes: what was taken for granted or left out, for stderr.
    """

    files: tuple[CheckedFile, ...]
    notes: tuple[str, ...]


def check_files(paths: Sequence[Path], *, over: FlatRun, chosen: frozenset[str], dirs: ProfileDirs) -> Checked:
    """Check files; the launchers' among them hold for every run among them.

    Args:
        paths: the files.
        over: what the command line says of the runs: card, versions, number of GPUs, model.
        chosen: ids of the rules to look for.
        dirs: where profiles lie.

    Raises:
        UsageError: the card or a version is not known.
    """
    everything = [read(path) for path in paths]
    launchers = tuple(one.run for one in everything if one.run is not None and one.run.tool in LAUNCHERS)
    gpu = _gpu(over, dirs)
    notes: list[str] = []
    named = frozenset(paths)
    files = tuple(_check_one(one, launchers, over, gpu, chosen, dirs, notes, named) for one in everything)
    runs = [one.run for one in everything if one.run is not None and one.run.tool not in LAUNCHERS]
    if gpu is None and runs:
        left_out = [rule.id for rule in RULES if rule.needs is Needs.CARD and rule.id in chosen]
        if left_out:
            notes.append(f"without --gpu or --gpu-mem these are not looked for: {', '.join(left_out)}")
    return Checked(files=files, notes=tuple(dict.fromkeys(notes)))


def _gpu(over: FlatRun, dirs: ProfileDirs) -> Gpu | None:
    if over.gpu is not None:
        return load_gpu(over.gpu, dirs)
    return None if over.gpu_mem is None else nearest_gpu(over.gpu_mem, dirs)


def _check_one(
    one: Read,
    launchers: tuple[RunFile, ...],
    over: FlatRun,
    gpu: Gpu | None,
    chosen: frozenset[str],
    dirs: ProfileDirs,
    notes: list[str],
    named: frozenset[Path],
) -> CheckedFile:
    found: list[CheckFinding] = []
    error = one.error
    if one.script is not None:
        found += check_script(one.path, one.script)
    if one.unread is not None:
        notes.append(f"{one.path}: its commands are looked at, not the run that they start: {one.unread}")
    if one.run is not None:
        subject = _subject(one.run, launchers, over, gpu, dirs, notes)
        for rule in RULES:
            found += rule.find(subject)
        found += carried(subject)
    elif one.raw is not None:
        subject = Subject(file=one.raw, flat=one.raw.flat, stack=load_stack({}, dirs))
        found += [item for rule in RULES if rule.id in _OF_CONTRADICTIONS for item in rule.find(subject)]
        error = None if found else error
    kept = [_mendable(item, one, named) for item in dict.fromkeys(found) if item.rule in chosen]
    kept.sort(key=lambda item: (item.file != one.path, str(item.file), item.line or 0, item.rule, item.key))
    tool = one.run or (one.raw if error is None else None)
    return CheckedFile(path=one.path, tool=None if tool is None else tool.tool.value, findings=tuple(kept), error=error)


def _mendable(found: CheckFinding, one: Read, named: frozenset[Path]) -> CheckFinding:
    """The finding, without its remedy where `--fix` cannot reach it: in a file that was not named.

    A run of RLT's is composed after such a file, so what stands there can be set in the run's own.
    """
    composed = one.run is not None and one.run.tool is Tool.RLT and "." not in found.key
    return found if found.file in named or composed else replace(found, fixed=None)


def _subject(
    run: RunFile,
    launchers: tuple[RunFile, ...],
    over: FlatRun,
    gpu: Gpu | None,
    dirs: ProfileDirs,
    notes: list[str],
) -> Subject:
    beside = tuple(one for one in launchers if one is not run and run.tool not in LAUNCHERS)
    flat = _placed(run, beside, over, dirs)
    stack = load_stack(flat.stack or {}, dirs)
    cards = [gpu] if gpu is not None else [load_gpu(name, dirs) for name in dirs.names("gpus")]
    subject = Subject(
        file=run,
        beside=beside,
        flat=flat,
        stack=stack,
        gpu=gpu,
        cards=tuple((card.label, card.total_bytes) for card in cards),
    )
    if subject.is_launcher or (flat.model is None and flat.teacher is None):
        return subject
    if subject.trains and flat.num_gpus is None:
        notes.append(
            f"{run.path}: taken for one training process; --num-gpus, or an accelerate file beside it, says otherwise"
        )
    try:
        return replace(subject, estimated=_estimate(flat, dirs))
    except UsageError as error:
        subject = replace(subject, refused=(error.message, error.hint))
        notes.append(f"{run.path}: not looked for before it can be a run: {_unseen(gpu)}")
    except CannotTellError as error:
        notes.append(f"{run.path}: {error.message}; not looked for: {_unseen(gpu)} (--model names the model)")
    return subject


def _unseen(gpu: Gpu | None) -> str:
    """Ids of the rules that an estimate would have looked for; those of the card are said once for all files."""
    needs = {Needs.MODEL} if gpu is None else {Needs.MODEL, Needs.CARD}
    return ", ".join(rule.id for rule in RULES if rule.needs in needs)


def _placed(run: RunFile, beside: tuple[RunFile, ...], over: FlatRun, dirs: ProfileDirs) -> FlatRun:
    """The run under its launchers' placement, with the command line on top."""
    flat = run.flat
    for other in beside:
        place = other.flat
        flat = FlatRun(mixed_precision=place.mixed_precision).merged(flat)
        flat = flat.merged(FlatRun(num_gpus=place.num_gpus, sharding=place.sharding))
    settings = over.given()
    model = settings.pop("model", None)
    if model is not None:
        settings["teacher" if flat.teacher is not None else "model"] = model
    if "stack" in settings:
        settings["stack"] = dict(flat.stack or {}) | dict(settings["stack"])
    flat = flat.merged(FlatRun(**settings))
    if run.tool is Tool.TRL:  # its sft is SFTTrainer's, which an estimate takes only where a version of trl is named
        versions = load_stack(flat.stack or {}, dirs).versions
        flat = flat.merged(FlatRun(stack={"trl": versions["trl"]} | dict(flat.stack or {})))
    return flat


def _estimate(flat: FlatRun, dirs: ProfileDirs) -> Estimated:
    """The run's estimate.

    Raises:
        VramplanError: its model is not known, or it cannot exist.
    """
    from vramplan.formula.estimate import estimate
    from vramplan.planner.answer import prepare
    from vramplan.planner.report_of import report_of

    prepared = prepare(flat, dirs)
    result = estimate(prepared[0])
    report = report_of(flat, prepared, result.phases, how="estimate", profile_dirs=dirs)
    return Estimated(setting=prepared[0], result=result, report=report)
