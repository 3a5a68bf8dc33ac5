from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramplan.errors import UsageError
from vramplan.monitor.options import (
    LogOptions,
    default_log_path,
    parse_duration,
    parse_format,
    parse_interval,
    process_pace,
)
from vramplan.monitor.smi_fields import ALIASES, FIELDS, mib_text


def test_a_query_alone_means_nvidia_smi():
    choice = parse_format(None, "timestamp,index,memory.used,memory.total")
    assert choice.name == "nvidia-smi"
    assert [field.name for field in choice.fields] == ["timestamp", "index", "memory.used", "memory.total"]


@pytest.mark.parametrize(
    ("text", "header", "units"),
    [
        ("csv", True, True),
        ("nvidia-smi", True, True),
        ("csv,noheader", False, True),
        ("csv,nounits", True, False),
        ("csv, noheader, nounits", False, False),
        ("noheader", False, True),
    ],
)
def test_nvidia_smis_own_format_words(text, header, units):
    choice = parse_format(text, "memory.used")
    assert (choice.with_header, choice.with_units) == (header, units)


@pytest.mark.parametrize(
    ("text", "query"), [("xml", None), ("native,csv", None), ("native", "memory.used"), ("native,nounits", None)]
)
def test_formats_that_are_not(text, query):
    with pytest.raises(UsageError):
        parse_format(text, query)


def test_every_alias_leads_to_a_field():
    assert set(ALIASES.values()) <= set(FIELDS)
    assert not set(ALIASES) & set(FIELDS)


@given(st.integers(0, 2**50))
def test_mebibytes_are_rounded_up(num_bytes):
    mib = int(mib_text(num_bytes))
    assert mib * 2**20 >= num_bytes > (mib - 1) * 2**20


def test_intervals():
    assert parse_interval(None, None) == 5.0
    assert parse_interval(0.1, None) == 0.1
    assert parse_interval(None, 100) == 0.1
    for seconds, milliseconds in ((0, None), (-1, None), (1, 100), (None, 1), (1e9, None)):
        with pytest.raises(UsageError):
            parse_interval(seconds, milliseconds)


@pytest.mark.parametrize(
    ("text", "seconds"), [(None, None), ("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("1d", 86400)]
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "1w", "x"])
def test_durations_that_are_not(text):
    with pytest.raises(UsageError):
        parse_duration(text)


def test_the_process_list_is_never_faster_than_the_ticks_and_zero_is_never():
    assert process_pace(None, watched=False, interval_seconds=1) == 5
    assert process_pace(None, watched=True, interval_seconds=1) == 2
    assert process_pace(None, watched=True, interval_seconds=60) == 60
    assert process_pace(0.5, watched=True, interval_seconds=1) == 1
    assert process_pace(0, watched=True, interval_seconds=1) is None
    with pytest.raises(UsageError):
        process_pace(-1, watched=True, interval_seconds=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kill_above_bytes": 1},
        {"command": ("x",), "pid": 1},
        {"command": ("x",), "tee": True},
        {"rotate_bytes": 1},
        {"num_ticks": 0},
        {"fsync_ticks": -1},
        {"units": "MB"},
    ],
)
def test_what_does_not_go_together_is_refused(wrong):
    plain = {"output": None, "format": parse_format(None, None), "interval_seconds": 1.0, "process_seconds": None}
    LogOptions(**plain)
    with pytest.raises(UsageError):
        LogOptions(**{**plain, **wrong})


def test_a_logs_own_name_has_the_command_the_host_and_the_pid():
    assert str(default_log_path(["/usr/bin/py thon"], "host", 7)) == "memory_log-py-thon-host-7.csv"
