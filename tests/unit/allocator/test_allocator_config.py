"""`PYTORCH_ALLOC_CONF`: what is read, what is refused, and that PyTorch's own parser agrees."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramplan.allocator.config import KEYS, AllocatorConfig
from vramplan.errors import CannotTellError, UsageError

MiB = 2**20

configs = st.builds(
    AllocatorConfig,
    max_split_size_bytes=st.none() | st.integers(64, 4096).map(lambda mib: mib * MiB),
    max_non_split_rounding_bytes=st.none() | st.integers(64, 256).map(lambda mib: mib * MiB),
    roundup_power2_divisions=st.lists(st.sampled_from([0, 1, 2, 4, 16]), min_size=16, max_size=16).map(tuple)
    | st.sampled_from([(0,) * 16, (4,) * 16, (8,) * 3 + (0,) * 13]),
    garbage_collection_threshold=st.just(0.0) | st.floats(0.1, 0.95),
    expandable_segments=st.booleans(),
    large_segment_size_bytes=st.sampled_from([20 * MiB, 32 * MiB, 64 * MiB]),
    per_process_memory_fraction=st.just(1.0) | st.floats(0.1, 1.0),
)


def test_the_empty_text_is_the_defaults() -> None:
    assert AllocatorConfig.parse("") == AllocatorConfig()
    assert AllocatorConfig().format() == ""


def test_keys_are_read() -> None:
    config = AllocatorConfig.parse(
        "expandable_segments:True, max_split_size_mb:512, garbage_collection_threshold:0.8,"
        "max_non_split_rounding_mb:30,large_segment_size_mb:24,per_process_memory_fraction:0.9,"
    )
    assert config == AllocatorConfig(
        expandable_segments=True,
        max_split_size_bytes=512 * MiB,
        garbage_collection_threshold=0.8,
        max_non_split_rounding_bytes=30 * MiB,
        large_segment_size_bytes=24 * MiB,
        per_process_memory_fraction=0.9,
    )


def test_the_last_of_two_holds() -> None:
    assert AllocatorConfig.parse("max_split_size_mb:64,max_split_size_mb:128").max_split_size_bytes == 128 * MiB


def test_divisions_before_the_first_named_interval_are_as_the_first() -> None:
    divisions = AllocatorConfig.parse("roundup_power2_divisions:[256:1,512:2,1024:4,>:8]").roundup_power2_divisions
    assert divisions == (1,) * 9 + (2, 4, 8, 8, 8, 8, 8)
    assert AllocatorConfig.parse("roundup_power2_divisions:[4:2]").roundup_power2_divisions == (2, 2, 2) + (0,) * 13


@given(configs)
def test_what_is_written_reads_back(config: AllocatorConfig) -> None:
    assert AllocatorConfig.parse(config.format()) == config


@pytest.mark.parametrize(
    ("divisions", "text"),
    [
        ((4,) * 16, "roundup_power2_divisions:4"),
        ((1,) * 9 + (2, 4) + (0,) * 5, "roundup_power2_divisions:[256:1,512:2,1024:4]"),
        ((0, 0, 8) + (0,) * 13, "roundup_power2_divisions:[2:0,4:8]"),
    ],
)
def test_divisions_are_written_short(divisions: tuple[int, ...], text: str) -> None:
    config = AllocatorConfig(roundup_power2_divisions=divisions)
    assert config.format() == text
    assert AllocatorConfig.parse(text) == config


@pytest.mark.parametrize("key", KEYS)
def test_every_known_key_is_accepted(key: str) -> None:
    values = {
        "backend": "native",
        "expandable_segments": "True",
        "garbage_collection_threshold": "0.5",
        "per_process_memory_fraction": "0.5",
        "roundup_power2_divisions": "2",
    }
    AllocatorConfig.parse(f"{key}:{values.get(key, '64')}")


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        AllocatorConfig.parse("max_split_size:512")
    assert caught.value.hint == "the nearest is max_split_size_mb"


def test_another_allocator_is_not_guessed() -> None:
    with pytest.raises(CannotTellError):
        AllocatorConfig.parse("backend:cudaMallocAsync")


BAD = [
    "max_split_size_mb:10",
    "expandable_segments:true",
    "large_segment_size_mb:10",
    "large_segment_size_mb:32,max_split_size_mb:24",
    "max_non_split_rounding_mb:4",
    "roundup_power2_divisions:3",
    "roundup_power2_divisions:0",
    "roundup_power2_divisions:[3:1]",
    "roundup_power2_divisions:[1:3]",
    "garbage_collection_threshold:1.5",
    "garbage_collection_threshold:0",
    "max_split_size_mb",
    "max_split_size_mb 64",
    "max_split_size_mb:",
    "roundup_power2_divisions:[256:1",
]
GOOD = [
    "",
    "max_split_size_mb:512",
    "max_split_size_mb:20",
    "large_segment_size_mb:32,max_split_size_mb:32",
    "max_split_size_mb:32,large_segment_size_mb:32",
    "roundup_power2_divisions:[256:1,512:2,>:4]",
    "roundup_power2_divisions:[256:0]",
    "roundup_power2_divisions:1",
    "garbage_collection_threshold:0.8",
    "expandable_segments : True , max_split_size_mb : 64",
    "expandable_segments:True,",
]


@pytest.mark.parametrize("text", [*BAD, "max_split_size_mb:1.5e3", "per_process_memory_fraction:x", "[a]"])
def test_bad_text_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        AllocatorConfig.parse(text)


@pytest.mark.parametrize("text", GOOD)
def test_good_text_is_read(text: str) -> None:
    config = AllocatorConfig.parse(text)
    assert AllocatorConfig.parse(config.format()) == config


def test_torch_refuses_and_accepts_the_same() -> None:
    torch = pytest.importorskip("torch")
    set_allocator = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
    if set_allocator is None:
        pytest.skip("this torch has no parser of its own in a build without CUDA")
    try:
        for text in GOOD:
            set_allocator(text)
        for text in BAD:
            if text in ("max_split_size_mb:", "roundup_power2_divisions:[256:1"):
                continue  # torch reads past the end of these
            with pytest.raises((ValueError, RuntimeError)):
                set_allocator(text)
    finally:
        set_allocator("large_segment_size_mb:20")


@pytest.mark.parametrize(
    "values",
    [
        {"large_segment_size_bytes": 10 * MiB},
        {"large_segment_size_bytes": 21 * MiB, "expandable_segments": True},
        {"garbage_collection_threshold": 1.0},
        {"per_process_memory_fraction": 0.0},
        {"roundup_power2_divisions": (4,)},
        {"roundup_power2_divisions": (3,) * 16},
        {"max_split_size_bytes": MiB},
    ],
)
def test_impossible_settings_cannot_be_made(values: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        AllocatorConfig(**values)  # type: ignore[arg-type]
