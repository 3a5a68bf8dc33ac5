from __future__ import annotations

import os

from vramplan.monitor.stream import StreamOutput


def test_the_header_comes_once_and_first(tmp_path):
    with (tmp_path / "out").open("wb") as file:
        out = StreamOutput(file.fileno(), "a,b")
        assert out.write(["1,2"])
        assert out.write(["3,4", "5,6"])
        out.close()
    assert (tmp_path / "out").read_text() == "a,b\n1,2\n3,4\n5,6\n"
    assert (out.num_rows_written, out.num_rows_lost) == (3, 0)


def test_a_line_that_a_full_disk_cut_is_finished_later(tmp_path, monkeypatch):
    real = os.write

    def nearly_full(fd, data):
        if len(data) > 3:
            return real(fd, data[:3])
        raise OSError(28, "No space left on device")

    with (tmp_path / "out").open("wb") as file:
        out = StreamOutput(file.fileno(), "a,b")
        monkeypatch.setattr(os, "write", nearly_full)
        assert not out.write(["1,2"])
        assert out.error == "No space left on device"
        monkeypatch.setattr(os, "write", real)
        assert out.write(["3,4"])
        out.close()
    assert (tmp_path / "out").read_text() == "a,b\n1,2\n3,4\n"
    assert (out.error, out.num_rows_written, out.num_rows_lost) == (None, 2, 0)


def test_what_is_never_taken_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("vramplan.monitor.stream._MOST_WAITING_BYTES", 6)
    with open("/dev/full", "wb", buffering=0) as file:  # noqa: PTH123
        out = StreamOutput(file.fileno(), "")
        for row in ("1,2", "3,4", "5,6"):
            assert not out.write([row])
        out.close()
    assert (out.num_rows_written, out.num_rows_lost) == (0, 3)


def test_a_reader_that_has_gone_is_no_error(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    out = StreamOutput(writer, "a,b")
    assert not out.write(["1,2"])
    assert (out.is_closed, out.error) == (True, None)
    out.close()
    os.close(writer)
    assert out.num_rows_lost == 0
