"""`recommend`: search, confirm, and say what would have to change."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from vramplan.catalog.dirs import ProfileDirs
from vramplan.core.recommendation import Obstacle, Recommendation, Recommended, Wall
from vramplan.errors import DoesNotFitError, UsageError
from vramplan.formula.band import band_of
from vramplan.formula.phases import FLASH_CAPABILITY
from vramplan.planner.answer import prepare
from vramplan.planner.changes import deciding_phase, growing_component, obstacle
from vramplan.planner.preference import Preference
from vramplan.planner.report_of import report_of
from vramplan.planner.resolve import method_of
from vramplan.planner.search.batches import batches_of
from vramplan.planner.search.best import Answer, Cell, Search
from vramplan.planner.search.families import Ground
from vramplan.planner.search.frontier import frontier_of
from vramplan.planner.space import AXES, Space, space_of
from vramplan.planner.start import estimate_command, file_text
from vramplan.planner.trainer_rules import engine_refusal
from vramplan.planner.walls import walls_of
from vramplan.runfiles.flat import FlatRun

CONSERVATIVE, BALANCED = 0.6, 0.8
"""Shares of the budget: the documents' own conservative run takes 50 of 85 GB."""
CONSERVATIVE_RUN, BALANCED_RUN = "conservative", "balanced"
_PRECISE = 10**9


def recommend(
    given: FlatRun,
    profile: FlatRun,
    *,
    profile_dirs: ProfileDirs,
    free: Collection[str] = (),
    fix: Collection[str] = (),
    prefer: str | None = None,
    explain: bool = False,
    progress: Callable[[float], None] = lambda _: None,
) -> Recommendation:
    """Which settings fit, and which of them are best.

    Args:
        given: settings that hold.
        profile: those of the run underneath.
        profile_dirs: where profiles lie.
        free, fix: axes to search although given, or to hold although not.
        prefer: what counts more.
        explain: whether to say why larger settings fail, and what would let them fit.
        progress: is told the share of the work that is done.

    Raises:
        VramplanError: a setting, a model or a card is not known, or no budget is.
    """
    merged = profile.merged(given)
    setting, notes, _ = prepare(_startable(merged), profile_dirs)
    budget = merged.gpu_mem if merged.gpu_mem is not None else None if merged.gpu is None else setting.gpu.total_bytes
    if budget is None:
        raise UsageError("recommend needs a budget", hint="give --gpu-mem 85, or a card: --gpu h100-80gb")
    ground = Ground(models=setting.models, stack=setting.stack, gpu=setting.gpu)
    longest = min(model.max_position_embeddings for model in ground.models.values())
    engine_length = _engine_length(given, merged, free)
    longest = longest if engine_length is None else min(longest, engine_length)
    roles = {role.name: ground.models[role.name].stored_quantization is not None for role in setting.run.roles}
    flash = ground.gpu.compute_capability >= FLASH_CAPABILITY
    space = space_of(
        given,
        profile,
        roles,
        free=free,
        fix=fix,
        limit=longest,
        flash_runs=flash,
        engine_runs=engine_refusal(setting.run.method, ground.stack, sleeps=False) is None,
        engine_sleeps=engine_refusal(setting.run.method, ground.stack, sleeps=True) is None,
        default_share=ground.stack.default_vllm_utilization,
    )
    _refuse_engine(space, ground, engine_length)
    preference = Preference(prefer=prefer)
    num_gpus = setting.run.sharding.num_gpus
    batches = batches_of(space, ground.stack, num_gpus, preference)
    if not batches.num_accepted:
        why = f": {batches.refused}" if batches.refused else ": they do not divide the batch size"
        raise UsageError(
            f"no batch of these sizes is accepted by the trainer{why}",
            hint="free one of --per-device-batch-size, --generations, --batch-size, --gradient-accumulation-steps",
        )
    search = Search(space, ground, batches, preference, progress)
    report = _Reporter(ground, budget, profile_dirs)
    chosen = _choose(search, budget)
    recommended = tuple(report.recommended(name, one[1]) for name, one in chosen.items())
    closest = None if chosen else search.smallest()
    if not chosen and closest is None:
        raise DoesNotFitError(
            "vLLM's share of the card does not hold its weights and the rows of the smallest rollout",
            hint="use --rollout hf or vllm-server, or a larger --vllm-gpu-memory-utilization where that is given",
        )
    walls: tuple[Wall, ...] = ()
    walls_name = None
    if chosen:
        walls_name = BALANCED_RUN if BALANCED_RUN in chosen else next(iter(chosen))
        walls = walls_of(chosen[walls_name][1], ground, budget, longest_row=longest, share=space.share)
    return Recommendation(
        budget_bytes=budget,
        gpu=setting.gpu.label,
        method=space.method.value,
        roles=tuple(role.name for role in setting.run.roles),
        num_settings=space.num_settings,
        recommended=recommended,
        frontier=frontier_of(search, budget, _limit(search, budget)) if chosen else (),
        walls=walls,
        walls_of=walls_name,
        obstacles=_obstacles(search, chosen, closest, ground, budget, profile_dirs, explain=explain),
        closest=None if closest is None else report.recommended("closest", closest[1]),
        missing_bytes=None if closest is None else closest[1].high_bytes - budget,
        held=_held(space, given, free, fix),
        notes=(*notes, *(_absent(name) for name in (CONSERVATIVE_RUN, BALANCED_RUN) if chosen and name not in chosen)),
    )


def _absent(name: str) -> str:
    share = CONSERVATIVE if name == CONSERVATIVE_RUN else BALANCED
    return f"there is no {name} run: no setting needs as little as {share:.0%} of the budget"


def _engine_length(given: FlatRun, merged: FlatRun, free: Collection[str]) -> int | None:
    """The longest row that vLLM serves where that is given, else None."""
    serves = (merged.rollout or "").startswith("vllm") or "rollout" in free
    return given.vllm_max_model_length if serves and method_of(merged).rolls_out else None


def _refuse_engine(space: Space, ground: Ground, length: int | None) -> None:
    """Refuse what the trainer's engine cannot do.

    Raises:
        UsageError: it cannot be so.
    """
    if space.rollouts == ("vllm-colocate",):
        why = engine_refusal(space.method, ground.stack, sleeps=space.sleeps == (True,))
        if why is not None:
            raise UsageError(why[0], hint=why[1])
    shortest = min(sum(pair) for pair in space.lengths)
    if length is not None and shortest > length:
        raise UsageError(
            f"VP006: --vllm-max-model-length {length} is less than prompt and completion, {shortest}",
            hint="it counts both: raise it, or shorten them",
        )


Chosen = dict[str, tuple[Cell, Answer]]


def _choose(search: Search, budget: int) -> Chosen:
    """The three runs: sizes never shrink from one to the next."""
    chosen: Chosen = {}
    wanted = (
        (CONSERVATIVE_RUN, CONSERVATIVE, int(CONSERVATIVE * budget)),
        (BALANCED_RUN, BALANCED, int(BALANCED * budget)),
        ("aggressive", 1.0, _limit(search, budget)),
    )
    least: Cell | None = None
    for name, share, limit in wanted:

        def fits(one: Answer, share: float = share) -> bool:
            return one.device_used_bytes <= share * budget and one.high_bytes <= budget

        found = search.best(limit, fits, least=least)
        if found is not None:
            chosen[name], least = found, found[0]
    return chosen


def _limit(search: Search, budget: int) -> int:
    """Device bytes whose band just fits the budget."""
    _, high = band_of(search.families[0].setting, _PRECISE)
    return budget * _PRECISE // high


def _startable(flat: FlatRun) -> FlatRun:
    """The run as far as it is not searched, in a form that resolves: it says which models and cards there are."""
    keys = {key: value for key, value in flat.given().items() if key not in AXES}
    if method_of(flat).trains:
        keys["tuning"] = "lora"  # what any model takes, one quantised on disk too
    return FlatRun(**keys)


def _held(space: Space, given: FlatRun, free: Collection[str], fix: Collection[str]) -> Mapping[str, object]:
    """What the command line gave or fixed of the settings that are searched."""
    said = {key: value for key, value in given.given().items() if key in AXES and key not in free}
    fixed = {*fix, *(f"{role}_quantization" for role in space.precisions if "quantization" in fix)}
    precisions: dict[str, object] = {
        f"{role}_quantization": one[0] for role, one in space.precisions.items() if len(one) == 1
    }
    axes: dict[str, tuple[object, ...]] = {
        "tuning": space.tunings,
        "lora_r": space.ranks,
        "gradient_checkpointing": space.checkpointing,
        "attn_implementation": space.attention,
        "offload": space.offloads,
        "rollout": space.rollouts,
        "vllm_sleep": space.sleeps,
        "per_device_batch_size": space.per_device,
        "gradient_accumulation_steps": space.accumulation,
        "generations": space.generations,
    }
    single = precisions | {key: values[0] for key, values in axes.items() if len(values) == 1}
    return said | {key: value for key, value in single.items() if key in fixed}


class _Reporter:
    """Makes the full report of a chosen run."""

    def __init__(self, ground: Ground, budget: int, dirs: ProfileDirs) -> None:
        self._ground, self._budget, self._dirs = ground, budget, dirs

    def recommended(self, name: str, answer: Answer) -> Recommended:
        """See `Recommended`."""
        budgeted = answer.flat if answer.flat.gpu_mem is not None else answer.flat.merged(FlatRun(gpu_mem=self._budget))
        phase = deciding_phase(answer)
        return Recommended(
            name=name,
            run=answer.flat.to_dict(),
            report=report_of(
                budgeted,
                (answer.setting, [], []),
                answer.phases,
                how="estimate",
                profile_dirs=self._dirs,
                run_id=name,
            ),
            margin_bytes=self._budget - answer.device_used_bytes,
            limited_by=f"{phase.name}: {growing_component(phase).value}",
            command=estimate_command(answer.flat),
            file_text=file_text(answer.flat),
        )


def _obstacles(
    search: Search,
    chosen: Chosen,
    closest: tuple[Cell, Answer] | None,
    ground: Ground,
    budget: int,
    dirs: ProfileDirs,
    *,
    explain: bool,
) -> tuple[Obstacle, ...]:
    """Why the closest does not fit; with `explain` why the next larger settings of the largest run do not."""
    if closest is not None:
        return (obstacle("The smallest of all settings", closest[1], ground, budget, dirs),)
    if not explain:
        return ()
    cell, _ = chosen[list(chosen)[-1]]
    found = []
    for what, larger in search.larger(cell):
        answer = search.answer(larger)
        if answer.high_bytes > budget:
            found.append(obstacle(what, answer, ground, budget, dirs))
    return tuple(found)
