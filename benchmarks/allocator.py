"""How fast the model of the caching allocator replays events: microseconds per event, for each kind of settings.

Run it as `python benchmarks/allocator.py`. The last column is the time over that of a loop that only keeps the sizes
of live blocks in a dict, in the same run, so that machines can be compared.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence

from vramplan.allocator.config import AllocatorConfig
from vramplan.allocator.replay import replay

NUM_EVENTS = 100_000
LIMIT_SECONDS = 2.0
SETTINGS = (
    "",
    "expandable_segments:True",
    "max_split_size_mb:128",
    "roundup_power2_divisions:4",
    "garbage_collection_threshold:0.8,per_process_memory_fraction:0.9",
)
CAPACITY_BYTES = 80 * 2**30


def training_events(num_events: int, seed: int = 0) -> list[int]:
    """Steps of a transformer: activations kept through the forward, freed in reverse, temporaries in between."""
    rng = random.Random(seed)
    events: list[int] = []
    num_blocks = 0

    def alloc(num_bytes: int) -> int:
        nonlocal num_blocks
        events.append(num_bytes)
        num_blocks += 1
        return num_blocks - 1

    def free(serial: int) -> None:
        events.append(-(serial + 1))

    for _ in range(300):  # weights and optimizer state
        alloc(rng.choice((8192, 2 << 20, 33_554_432, 90_177_536)))
    while len(events) < num_events:
        length = rng.randrange(256, 2048)
        kept = []
        for _ in range(32 * 8):
            temporary = alloc(4 * length * 4096)
            kept.append(alloc(2 * length * rng.choice((1, 1024, 4096, 14336))))
            free(temporary)
        for serial in reversed(kept):
            gradient = alloc(2 * length * 4096)
            free(serial)
            free(gradient)
    return events[:num_events]


def keep_sizes(events: Sequence[int]) -> int:
    """The least that any replay does."""
    live: dict[int, int] = {}
    num_blocks = 0
    held = peak = 0
    for event in events:
        if event > 0:
            live[num_blocks] = event
            num_blocks += 1
            held += event
            peak = max(peak, held)
        else:
            held -= live.pop(~event)
    return peak


def best_seconds(call: Callable[[], object], repeats: int = 3) -> float:
    """The shortest of a few runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> int:
    events = training_events(NUM_EVENTS)
    floor = best_seconds(lambda: keep_sizes(events))
    print(f"{len(events):,} events; a loop over a dict takes {floor / len(events) * 1e6:.2f} us per event")
    print(f"{'settings':<66}{'us':>6}{'ratio':>7}")
    slowest = 0.0
    for text in SETTINGS:
        config = AllocatorConfig.parse(text)
        seconds = best_seconds(lambda config=config: replay(events, config, CAPACITY_BYTES))  # type: ignore[misc]
        slowest = max(slowest, seconds)
        print(f"{text or 'the defaults':<66}{seconds / len(events) * 1e6:>6.2f}{seconds / floor:>7.1f}")
    print(f"slowest: {slowest:.2f} s (limit {LIMIT_SECONDS} s)")
    return int(slowest > LIMIT_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
