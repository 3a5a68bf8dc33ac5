from __future__ import annotations

import os

import pytest

from vramplan.errors import UsageError
from vramplan.monitor.log_file import LogFile

HEADER = "a,b"


def write(path, *ticks, **options):
    log = LogFile(path, HEADER, **options)
    for tick in ticks:
        assert log.write(tick)
    log.close()
    return log


def test_the_header_comes_with_the_first_row(tmp_path):
    path = tmp_path / "x.csv"
    log = LogFile(path, HEADER)
    assert path.read_text() == ""
    log.write(["1,2", "3,4"])
    assert path.read_text() == "a,b\n1,2\n3,4\n"
    log.close()
    assert (log.num_rows_written, log.num_rows_lost) == (2, 0)


def test_a_log_without_a_header_is_resumed_too(tmp_path):
    path = tmp_path / "x.csv"
    for _ in range(2):
        log = LogFile(path, "")
        log.write(["1,2"])
        log.close()
    assert path.read_text() == "1,2\n1,2\n"


@pytest.mark.parametrize("torn", ["5", "5,", "5,6", "\0\0\0", "5" * 200_000])
def test_a_torn_last_line_is_taken_away_before_anything_is_added(tmp_path, torn):
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n" + torn)
    log = write(path, ["3,4"])
    assert path.read_text() == "a,b\n1,2\n3,4\n"
    assert f"its last {len(torn)} bytes" in log.notes[0]


@pytest.mark.parametrize("torn", ["a", "a,", "a,b"])
def test_a_torn_header_is_begun_anew(tmp_path, torn):
    path = tmp_path / "x.csv"
    path.write_text(torn)
    write(path, ["3,4"])
    assert path.read_text() == "a,b\n3,4\n"


@pytest.mark.parametrize("content", ["b,a\n1,2\n", "a,b,c\n", "some text", "a,b \n1,2\n", "\n"])
def test_another_header_is_refused_and_left_as_it_is(tmp_path, content):
    path = tmp_path / "x.csv"
    path.write_text(content)
    with pytest.raises(UsageError, match="another kind of log"):
        LogFile(path, HEADER)
    assert path.read_text() == content


def test_force_begins_anew_only_what_is_another_kind(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("b,a\n1,2\n")
    write(path, ["3,4"], force=True)
    write(path, ["5,6"], force=True)
    assert path.read_text() == "a,b\n3,4\n5,6\n"


def test_two_writers_of_one_file_are_refused(tmp_path):
    first = LogFile(tmp_path / "x.csv", HEADER)
    with pytest.raises(UsageError, match="another process is writing"):
        LogFile(tmp_path / "x.csv", HEADER)
    first.close()
    LogFile(tmp_path / "x.csv", HEADER).close()


def test_a_short_write_is_taken_back_and_tried_again(tmp_path, monkeypatch):
    path = tmp_path / "x.csv"
    log = LogFile(path, HEADER)
    log.write(["1,2"])
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:3]))
    assert not log.write(["3,4", "5,6"])
    assert path.read_text() == "a,b\n1,2\n"
    assert log.error == "No space left on device"
    assert log.num_rows_waiting == 2
    monkeypatch.setattr(os, "write", real)
    assert log.write(["7,8"])
    assert path.read_text() == "a,b\n1,2\n3,4\n5,6\n7,8\n"
    assert log.error is None
    log.close()
    assert log.num_rows_lost == 0


def test_what_no_space_was_found_for_is_counted(tmp_path, monkeypatch):
    log = LogFile(tmp_path / "x.csv", HEADER)

    def full(fd, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    assert not log.write(["1,2", "3,4"])
    log.close()
    assert (log.num_rows_written, log.num_rows_lost) == (0, 2)


def test_rows_are_given_up_oldest_first_when_memory_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr("vramplan.monitor.log_file._MOST_WAITING_BYTES", 10)
    path = tmp_path / "x.csv"
    log = LogFile(path, "")
    real = os.write

    def full(fd, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    for row in ("1,2", "3,4", "5,6"):
        log.write([row])
    monkeypatch.setattr(os, "write", real)
    log.write(["7,8"])
    log.close()
    assert path.read_text() == "3,4\n5,6\n7,8\n"
    assert log.num_rows_lost == 1


def test_rotation_goes_on_in_the_last_part(tmp_path):
    path = tmp_path / "x.csv"
    write(path, ["1,2"], ["3,4"], ["5,6"], rotate_bytes=12)
    write(path, ["7,8"], rotate_bytes=12)
    texts = [p.read_text() for p in (path, tmp_path / "x.1.csv")]
    assert texts == ["a,b\n1,2\n3,4\n", "a,b\n5,6\n7,8\n"]


def test_while_a_later_part_is_written_the_first_stays_locked(tmp_path):
    log = LogFile(tmp_path / "x.csv", HEADER, rotate_bytes=8)
    log.write(["1,2"])
    log.write(["3,4"])
    assert log.path.name == "x.1.csv"
    with pytest.raises(UsageError, match="another process"):
        LogFile(tmp_path / "x.csv", HEADER, rotate_bytes=8)
    log.close()


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(UsageError, match="No such file or directory"):
        LogFile(tmp_path / "no" / "x.csv", HEADER)


def test_a_pipe_gets_its_header_once(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log = LogFile(path, HEADER)
    log.write(["1,2"])
    log.write(["3,4"])
    log.close()
    assert os.read(reader, 100) == b"a,b\n1,2\n3,4\n"
    os.close(reader)
