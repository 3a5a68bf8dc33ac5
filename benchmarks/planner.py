"""How many candidate settings `recommend` evaluates in a second, against calling the estimate for each.

Run it as `python benchmarks/planner.py`. The candidates are those of `vramplan recommend --gpu-mem 85`: every
combination of precision by role, tuning, rank, checkpointing, attention, offloading, rows, accumulation, generations
and context. One figure is for the arrays alone, one for the whole answer, with every printed run confirmed.
"""

from __future__ import annotations

import random
import sys
import time

from vramplan.cli._answer import find_profiles, with_profile
from vramplan.planner.answer import prepare
from vramplan.planner.preference import Preference
from vramplan.planner.recommend import recommend
from vramplan.planner.search.batches import batches_of
from vramplan.planner.search.best import Cell, Search, answer_of
from vramplan.planner.search.families import Ground
from vramplan.planner.space import space_of
from vramplan.runfiles.flat import FlatRun

WANTED_PER_SECOND = 500_000
"""Issue 3: a million in two seconds."""
NUM_SINGLE = 20


def main() -> int:
    """Print the figures; 1 where fewer than `WANTED_PER_SECOND` are evaluated."""
    dirs = find_profiles(None)
    flat = FlatRun(gpu_mem=85 * 10**9)
    asked = with_profile(flat, dirs)
    setting = prepare(asked.flat, dirs)[0]
    ground = Ground(models=setting.models, stack=setting.stack, gpu=setting.gpu)
    roles = dict.fromkeys((role.name for role in setting.run.roles), False)
    limit = min(model.max_position_embeddings for model in setting.models.values())
    space = space_of(flat, asked.flat, roles, free=(), fix=(), limit=limit, flash_runs=True, engine_sleeps=True)
    preference = Preference()
    start = time.perf_counter()
    search = Search(space, ground, batches_of(space, ground.stack, 1, preference), preference)
    arrays = time.perf_counter() - start
    singles = [_single(search, random.Random(seed)) for seed in range(NUM_SINGLE)]
    start = time.perf_counter()
    for single in singles:
        answer_of(single, ground)
    one = (time.perf_counter() - start) / NUM_SINGLE
    start = time.perf_counter()
    recommend(flat, asked.flat, profile_dirs=dirs)
    whole = time.perf_counter() - start
    rate = space.num_settings / arrays
    print(f"{space.num_settings:,} candidate settings in {len(search.families):,} families")
    print(f"arrays of all of them: {arrays:.2f} s, {rate / 1e6:.1f} million a second")
    print(f"one estimate: {one * 1e3:.1f} ms; a loop would take {one * rate:,.0f} × as long")
    print(f"the whole answer, every printed run confirmed by the estimate: {whole:.2f} s")
    return int(rate < WANTED_PER_SECOND)


def _single(search: Search, rng: random.Random) -> FlatRun:
    while True:
        family = rng.randrange(len(search.families))
        lower = search.lower(family)
        place = [rng.randrange(size) for size in lower.shape]
        if lower[tuple(place)] < 2**60:
            cell = Cell(family=family, row=place[0], rollout_row=place[1], length=place[2], rank=place[3])
            return search.flat(cell)


if __name__ == "__main__":
    sys.exit(main())
