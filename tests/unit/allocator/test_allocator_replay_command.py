"""`vramplan replay`: the table, the JSON, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from vramplan.allocator.recording import Recorder
from vramplan.allocator.snapshot_writer import write_snapshot
from vramplan.cli.replay import replay_command
from vramplan.errors import UsageError

MiB = 2**20
app = typer.Typer()
app.command("replay")(replay_command)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    recorder = Recorder()
    recorder.free(recorder.malloc(100 * MiB))
    recorder.malloc(120 * MiB)
    target = tmp_path / "snapshot.pickle"
    write_snapshot(recorder.snapshot(), target)
    return target


def test_the_table(path: Path) -> None:
    result = CliRunner().invoke(app, [str(path), "--units", "GiB", "--alloc-conf", "roundup_power2_divisions:4"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "device 0: 2 allocations in 6 events, from an empty start"
    assert "  at the recorded address   2 of 2" in lines
    assert "  segments while running    2 of 2 of the recorded size, 0 more" in lines
    rows = {line[2:46].strip(): line[46:].split() for line in lines}
    assert rows["recorded"] == ["-", "0.215"]
    assert rows["replayed"] == ["0.117", "0.215"]
    assert rows["expandable_segments:True"] == ["0.117", "0.117"]
    assert rows["roundup_power2_divisions:4"] == ["0.125", "0.234"]
    assert max(map(len, lines)) <= 80


def test_the_json(path: Path) -> None:
    result = CliRunner().invoke(app, [str(path), "--json"])
    report = json.loads(result.output)
    assert report["schema"] == "vramplan.replay/1"
    (device,) = report["devices"]
    assert device["reserved_bytes"] == 220 * MiB
    (replay,) = report["replays"]
    assert replay["exact"] is True
    assert replay["first_difference"] is None
    assert replay["peak_allocated_bytes"] == 120 * MiB
    assert replay["fragmentation_ratio"] == pytest.approx(100 / 220)
    assert replay["other_settings"][0] == {
        "settings": "expandable_segments:True",
        "peak_allocated_bytes": 120 * MiB,
        "reserved_at_peak_bytes": 120 * MiB,
        "peak_reserved_bytes": 120 * MiB,
    }


def test_a_snapshot_without_events(tmp_path: Path) -> None:
    recorder = Recorder()
    recorder.malloc(5 * MiB)
    recorder.events.clear()
    write_snapshot(recorder.snapshot(), tmp_path / "still.pickle")
    result = CliRunner().invoke(app, [str(tmp_path / "still.pickle"), "--units", "bytes"])
    assert result.output.splitlines() == [
        "device 0: no events were recorded, so there is nothing to replay",
        "  segments: 1, allocated: 5,242,880 bytes, reserved: 20,971,520 bytes",
    ]


def test_real_snapshots_fit_in_eighty_columns(shared: Path) -> None:
    for snapshot in sorted((shared / "snapshots").glob("*.pickle")):
        result = CliRunner().invoke(app, [str(snapshot)])
        assert result.exit_code == 0, result.output
        assert max(map(len, result.output.splitlines())) <= 80


@pytest.mark.parametrize("extra", [["--units", "MB"], ["--alloc-conf", "no_such:1"]])
def test_what_is_wrong_is_said(path: Path, extra: list[str]) -> None:
    result = CliRunner().invoke(app, [str(path), *extra])
    assert isinstance(result.exception, UsageError)
    assert result.exception.hint
