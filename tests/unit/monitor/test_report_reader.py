"""Every log that people have is read, and what cannot be read is counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramplan.errors import UsageError
from vramplan.monitor.log_columns import BadCellError, classify, epoch_seconds, size_bytes
from vramplan.monitor.log_reader import decode, read_log

MiB = 2**20
HEADER = "timestamp, index, memory.used [MiB], memory.total [MiB]\n"
FIRST = "2026/07/03 22:10:46.109, 0, 1129 MiB, 81559 MiB\n"
SECOND = "2026/07/03 22:10:47.110, 0, 18141 MiB, 81559 MiB\n"


@pytest.fixture
def log(tmp_path):
    def write(content, **options):
        path = tmp_path / "log.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_log(path, **options)

    return write


def used(read):
    return [row.sizes.get("used") for row in read.rows]


def dropped(read):
    return {one.reason: (one.count, one.first_line) for one in read.dropped}


def test_nvidia_smis_own(log):
    read = log(HEADER + FIRST + SECOND)
    assert used(read) == [1129 * MiB, 18141 * MiB]
    assert (read.format, read.dropped, read.notes) == ("nvidia-smi", [], [])


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff" + HEADER + FIRST + SECOND,
        (HEADER + FIRST + SECOND).replace("\n", "\r\n"),
        (HEADER + FIRST + SECOND).replace(", ", ","),
        (HEADER + FIRST + SECOND).replace(", ", ";"),
        (HEADER + FIRST + SECOND).replace(", ", "\t"),
        (HEADER + FIRST + SECOND).replace(" MiB,", ",").replace(" MiB\n", "\n"),
        (HEADER + FIRST + SECOND).encode("utf-16"),
        HEADER + "\n\n" + FIRST + "\n" + SECOND + "\n",
        "timestamp,gpu,memory_used(MB),memory_total(MB)\n" + FIRST.replace(" MiB", "") + SECOND.replace(" MiB", ""),
        "time,gpu_id,vram_used_mib,vram_total_mib\n" + FIRST.replace(" MiB", "") + SECOND.replace(" MiB", ""),
    ],
    ids=["bom", "crlf", "no-spaces", "semicolons", "tabs", "nounits", "utf-16", "blank-lines", "MB", "own-names"],
)
def test_varieties_say_the_same(log, content):
    read = log(content)
    assert used(read) == [1129 * MiB, 18141 * MiB]
    assert [row.sizes["total"] for row in read.rows] == [81559 * MiB] * 2
    assert [row.gpu for row in read.rows] == ["0", "0"]
    assert read.num_dropped == 0


def test_a_banner_before_the_header_is_dropped_and_counted(log):
    read = log("Thu Dec 30 13:52:06 2021\n+------+\n| NVIDIA-SMI 495.44 |\n" + HEADER + FIRST)
    assert used(read) == [1129 * MiB]
    assert dropped(read) == {"before the header": (3, 1)}


def test_nul_bytes_are_taken_out_and_said(log):
    read = log((HEADER + FIRST).encode() + b"\0" * 5000 + SECOND.encode())
    assert used(read) == [1129 * MiB, 18141 * MiB]
    assert read.notes == ["5,000 NUL bytes were taken out: the file was written by two programs, or after a crash"]


@pytest.mark.parametrize(
    "bad", ["2026/07/03 22:10:46.109, 0, 1129 M2026/07/03 22:10:47.1, 0, 5 MiB, 81559 MiB\n", "2026/07/03 22:10\n"]
)
def test_two_writers_in_one_line_are_dropped(log, bad):
    read = log(HEADER + FIRST + bad + SECOND)
    assert used(read) == [1129 * MiB, 18141 * MiB]
    assert read.num_dropped == 1
    assert read.dropped[0].first_line == 3
    assert "wrong number of cells" in read.dropped[0].reason


@pytest.mark.parametrize("bad", ["1129 Mi", "11x9 MiB", "-5 MiB", "1129 MiB MiB"])
def test_a_damaged_cell_drops_its_row_with_an_example(log, bad):
    read = log(HEADER + FIRST + SECOND.replace("18141 MiB", bad) + SECOND)
    assert used(read) == [1129 * MiB, 18141 * MiB]
    assert dropped(read) == {f"a cell that is no value (such as {bad!r})": (1, 3)}


def test_a_torn_last_line_is_dropped_even_where_it_looks_whole(log):
    read = log(HEADER + FIRST + "2026/07/03 22:10:47.110, 0, 18141 MiB, 8155")
    assert used(read) == [1129 * MiB]
    assert dropped(read) == {"the last line, cut before its end": (1, 3)}


def test_the_only_row_is_kept_without_its_line_end(log):
    assert used(log(HEADER + FIRST.strip())) == [1129 * MiB]


@pytest.mark.parametrize("absent", ["[N/A]", "N/A", "", "[Not Supported]", "[Unknown Error]", "[GPU is lost]"])
def test_what_a_driver_did_not_say_is_none_and_no_damage(log, absent):
    read = log(HEADER + FIRST.replace("1129 MiB", absent))
    assert used(read) == [None]
    assert read.num_dropped == 0


def test_a_repeated_header_is_a_new_run(log):
    read = log(HEADER + FIRST + "index, memory.used [MiB]\n0, 7 MiB\n")
    assert used(read) == [1129 * MiB, 7 * MiB]
    assert "2 headers" in read.notes[0]


def test_without_a_header_the_fields_can_be_said(log):
    read = log("0, 5, 7\n0, 6, 7\n", query="index,memory.used,memory.total")
    assert used(read) == [5 * MiB, 6 * MiB]


def test_without_a_header_columns_are_told_only_where_there_is_no_choice(log):
    assert used(log(FIRST + SECOND)) == [1129 * MiB, 18141 * MiB]
    with pytest.raises(UsageError) as error:
        log("0, 5, 7\n0, 6, 7\n")
    assert "--query-gpu" in str(error.value.hint)
    with pytest.raises(UsageError):
        log("1 MiB, 2 MiB, 3 MiB\n4 MiB, 5 MiB, 6 MiB\n")


def test_several_gpus_per_tick_are_kept_apart(log):
    read = log(HEADER + FIRST + FIRST.replace(", 0,", ", 1,").replace(".109", ".111"))
    assert [row.gpu for row in read.rows] == ["0", "1"]


def test_a_name_with_commas_is_put_together_again(log):
    read = log(
        "timestamp, gpu_name, gpu_uuid, pid, process_name, used_gpu_memory [MiB]\n"
        "2026/07/14 09:00:44.742, NVIDIA H100, GPU-a, 21198, ./burn, with, commas, 7484 MiB\n"
        "2026/07/14 09:00:44.742, NVIDIA H100, GPU-a, 21199, python, [N/A]\n"
    )
    # Two names could hold the commas, so the row is not guessed at.
    assert read.num_dropped == 1
    assert read.rows[0].processes() == {21199: None}
    assert read.format == "processes"


def test_a_process_list_is_read(log):
    read = log(
        "timestamp, gpu_uuid, pid, process_name, used_gpu_memory [MiB]\n"
        "2026/07/14 09:00:44.742, GPU-a, 21198, ./burn, with, commas, 7484 MiB\n"
    )
    assert read.rows[0].processes() == {21198: 7484 * MiB}
    assert read.rows[0].texts["process_name"] == "./burn, with, commas"


@pytest.mark.parametrize("content", [b"", b"\n\n", b"hello\nworld\n", b"a,b\n1,2\n", b"\x00\x01\x02", b"\xff\xfe"])
def test_what_is_no_log_is_one_sentence(log, content):
    with pytest.raises(UsageError, match="holds no row of a GPU log"):
        log(content)


def test_a_file_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_log(tmp_path / "none.csv")


@given(st.binary(max_size=400))
def test_no_bytes_crash_the_decoder(content):
    text, _ = decode(content)
    assert "\0" not in text


@given(st.text(max_size=200))
def test_no_text_crashes_the_reader(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_text(HEADER + FIRST + text, encoding="utf-8", errors="replace", newline="")
    try:
        read = read_log(path)
    except UsageError:
        return
    assert all(row.line >= 1 for row in read.rows)


@pytest.mark.parametrize(
    ("name", "meaning", "unit"),
    [
        ("memory.used [MiB]", "used", "MiB"),
        ("memory.used[MiB]", "used", "MiB"),
        ("memory_used(MB)", "used", "MB"),
        ("vram_used_mb", "used", "MB"),
        ("used_bytes", "used", "B"),
        ("gpu_utilization[%]", "gpu_ratio", "%"),
        ("gpu_utilization_ratio", "gpu_ratio", "ratio"),
        ("temperature [°C]", "temperature", "°C"),
        ("power.draw [W]", "power", "W"),
        ("utilization.memory [%]", "ignored", ""),
        ("anything", "ignored", ""),
    ],
)
def test_column_names(name, meaning, unit):
    column = classify(name)
    assert (column.meaning, column.unit) == (meaning, unit)


@pytest.mark.parametrize(
    ("cell", "unit", "expected"),
    [
        ("18141 MiB", "", 18141 * MiB),
        ("18141", "MiB", 18141 * MiB),
        ("18141", "", 18141 * MiB),
        ("4851.00", "MB", 4851 * MiB),
        ("5", "B", 5),
        ("1.5 GiB", "", 3 * 2**29),
        ("2 GB", "", 2 * 10**9),
    ],
)
def test_sizes(cell, unit, expected):
    assert size_bytes(cell, unit) == expected


@pytest.mark.parametrize(
    ("cell", "seconds", "has_zone"),
    [
        ("1970/01/02 00:00:01.500", 86401.5, False),
        ("1970-01-02 00:00:01", 86401.0, False),
        ("1970-01-02T00:00:01.25Z", 86401.25, True),
        ("1970-01-02T01:00:01+01:00", 86401.0, True),
        ("1740565077.4759753", 1740565077.4759753, True),
        ("1740565077475", 1740565077.475, True),
    ],
)
def test_times(cell, seconds, has_zone):
    assert epoch_seconds(cell) == (seconds, has_zone)


@pytest.mark.parametrize("cell", ["", "5", "yesterday", "2026-07-03", "22:10:46"])
def test_times_that_are_not(cell):
    with pytest.raises(BadCellError):
        epoch_seconds(cell)


def test_the_real_logs_are_read_whole(shared):
    counts = {}
    for path in sorted((shared / "nvidia-smi" / "logs").glob("*.csv")):
        read = read_log(path)
        counts[path.name] = (len(read.rows), read.num_dropped)
    assert counts == {
        "PranavDani__torch-ex-smi.csv": (65, 0),
        "abigit__gpu_usage_log.csv": (209, 0),
        "anjana__gpu_usage_log.csv": (77, 0),
        "eobo0530_vlm__gpu_log.csv": (2619, 0),
        "ratcht__gpu_stats.csv": (1, 0),
        "theabrusch__gpu_stats_1e680.csv": (1235, 19),
    }
