"""Tables: what they say, at 80 columns, with nothing cut off."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from vramplan.core.report import Budget, MemoryReport, ModelReport, Verdict
from vramplan.output.table_report import render_tables

SNAPSHOT = """\
rlt-85gb-conservative: the documented settings

Models, in GB (10^9 bytes); * as loaded in this run
role and model                       bf16    8-bit    4-bit   this run
──────────────────────────────────────────────────────────────────────
teacher                             15.23    8.71*     5.45       8.71
  Qwen/Qwen2.5-7B-Instruct
  7.62 B parameters, int8
student                            15.23*     8.71     5.45      15.23
  bespokelabs/Bespoke-Stratos-7B
  7.62 B parameters, bf16
reference                          15.23*     8.71     5.45     shared
  Qwen/Qwen2.5-7B-Instruct
  7.62 B parameters, bf16

total                               30.46    17.42    10.90      23.94
saved against bf16                           13.04    19.56       6.52
                                               43%      64%        21%

Peak per phase, in GB (10^9 bytes); > the highest
                                            left of
phase       allocated   reserved   device     85.00
───────────────────────────────────────────────────
  load          24.14      24.14    24.70     60.30
  rollout       24.14      24.14    41.80     43.20
> train         52.45      53.75    54.31     30.69

phase       what it holds, the largest first
────────────────────────────────────────────────────────────────────────────────
  load      weights 24.14, context 0.56
  rollout   weights 24.14, rollout engine 17.10, context 0.56
> train     weights 24.14, logits 22.40, activations 3.12, checkpoints 2.47,
            fragmentation 1.30, context 0.56, optimizer 0.16, other 0.16

Peak: 54.31 GB on the device (band 52.00 to 57.00), in the train phase; its
  largest part is weights, 24.14 GB.
Fits in 85.00 GB, with 30.69 GB left.

What documents say of this run, in GB (10^9 bytes)
sum, and what it leaves out                  claimed   estimated
────────────────────────────────────────────────────────────────
three models in 8-bit                          21.00       26.13
3 × 7: embeddings and head stay in 16 bits

What the settings do
- batch_size (64) and generations (16) do not move the training peak: one
  forward and backward holds per_device_batch_size rows (2), and the rest of the
  batch follows in turn by gradient accumulation.
- Context does: activations, checkpoints and logits grow in proportion to rows ×
  length (here 6144 + 6144 = 12288 tokens per row); without eager attention
  nothing grows with its square.
- In the rollout vLLM takes vllm_gpu_memory_utilization (0.2) of the whole card
  however many completions there are: more of them wait for KV cache instead.

Notes on this run
- a note

Assumed
- the driver's own share of the card is 0.7 GB
"""


def test_80_columns(report: MemoryReport) -> None:
    assert render_tables(report, title="rlt-85gb-conservative: the documented settings", notes=("a note",)) == SNAPSHOT


# Four numbers of 14 digits and commas do not fit 60 columns.
@pytest.mark.parametrize(("units", "width"), [("GB", 60), ("GB", 80), ("GiB", 120), ("bytes", 80), ("bytes", 120)])
def test_no_line_is_wider_and_nothing_is_cut(report: MemoryReport, units: str, width: int) -> None:
    text = render_tables(report, units=units, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    squashed = re.sub(r"[\s─]", "", text)
    for model in report.models:
        assert re.sub(r"\s", "", model.id) in squashed


def test_long_names_go_on_in_the_next_line(report: MemoryReport) -> None:
    long = "/data/" + "very-long-folder-name/" * 6 + "checkpoint-1000"
    models = (replace(report.models[0], id=long), *report.models[1:])
    text = render_tables(replace(report, models=models))
    assert max(map(len, text.splitlines())) <= 80
    # The row of the teacher runs to the student's; its name is all that is in the first column there.
    row = text[text.index("\nteacher") : text.index("\nstudent")].splitlines()[2:]
    assert "".join(line.strip() for line in row).startswith(long)


def test_the_unit_is_said_and_not_mixed(report: MemoryReport) -> None:
    assert "GiB" not in render_tables(report, units="GB")
    assert not re.search(r"\bGB\b", render_tables(replace(report, assumptions=()), units="GiB"))


def test_colour_only_when_asked(report: MemoryReport) -> None:
    assert "\x1b" not in render_tables(report)
    coloured = render_tables(report, colour=True)
    assert "\x1b[" in coloured
    bare = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert [line.rstrip() for line in bare.splitlines()] == render_tables(report).splitlines()


def test_ascii_rules(report: MemoryReport) -> None:
    plain = render_tables(report, only_ascii=True)
    assert set(re.findall(r"[^\x00-\x7f]", plain)) <= {"×"}


def test_brackets_in_names_are_not_markup(report: MemoryReport) -> None:
    models = (replace(report.models[0], id="me/[bold]model[/bold]"), *report.models[1:])
    assert "me/[bold]model[/bold]" in render_tables(replace(report, models=models))


@pytest.mark.parametrize(
    ("budget", "sentence"),
    [
        (
            Budget(bytes=85 * 10**9, verdict=Verdict.FITS, margin_bytes=30 * 10**9),
            "Fits in 85.00 GB, with 30.00 GB left.",
        ),
        (
            Budget(bytes=55 * 10**9, verdict=Verdict.UNCERTAIN, margin_bytes=7 * 10**8),
            "Uncertain: 55.00 GB lies inside the band, 52.00 GB to 57.00 GB.",
        ),
        (
            Budget(bytes=40 * 10**9, verdict=Verdict.DOES_NOT_FIT, margin_bytes=-14_310_000_000),
            "Does not fit in 40.00 GB: 14.31 GB too much.",
        ),
    ],
)
def test_verdict_in_words(report: MemoryReport, budget: Budget, sentence: str) -> None:
    assert sentence in render_tables(replace(report, budget=budget)).splitlines()


def test_without_a_budget_there_is_no_verdict(unbudgeted: MemoryReport) -> None:
    text = render_tables(unbudgeted)
    assert "left of" not in text
    assert "Fits" not in text


@pytest.mark.parametrize(
    ("precision", "column"),
    [("bf16", "15.23*"), ("fp16", "15.23*"), ("int8", "8.71*"), ("nf4 (double quant)", "5.45*"), ("fp32", None)],
)
def test_the_loaded_precision_is_marked(unbudgeted: MemoryReport, precision: str, column: str | None) -> None:
    model: ModelReport = replace(unbudgeted.models[0], precision=precision)
    marked = re.findall(r"\S+\*", render_tables(replace(unbudgeted, models=(model,))))
    assert marked == ([] if column is None else [column])
