"""What MemoryCallback knows of the card, and of what was on it before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

MIB = 2**20


def test_a_callback_made_before_the_model_knows_the_idle_card(driver: Any, make: Any) -> None:
    card = driver.run(make("100", f"{5 * MIB} {900 * MIB}"), "-", "idle", program="_card.py").json
    assert (card["name"], card["profile"], card["driver"]) == ("NVIDIA H100 80GB HBM3", "h100-80gb", "590.48.01")
    assert card["uuid"] == "GPU-00000001-0000-0000-0000-000000000000"
    assert (card["total_bytes"], card["torch_total_bytes"]) == (81559 * MIB, 81080 * MIB)
    assert (card["compute_capability"], card["num_multiprocessors"]) == ("9.0", 132)
    assert card["baseline_used_bytes"] == 5 * MIB


@pytest.mark.parametrize(("listed", "baseline"), [(True, 900 * MIB - 700), (False, None)])
def test_one_made_later_knows_it_where_the_driver_lists_this_process(
    driver: Any, make: Any, tmp_path: Path, listed: bool, baseline: int | None
) -> None:
    processes = tmp_path / "processes"
    processes.write_text("1:50\n")
    scenario = make("100", str(900 * MIB), processes_file=str(processes))
    card = driver.run(scenario, str(processes) if listed else "-", "context", program="_card.py").json
    assert card["baseline_used_bytes"] == baseline


def test_without_a_driver_the_card_is_what_torch_says(driver: Any) -> None:
    card = driver.run(None, "-", "idle", program="_card.py").json
    assert (card["name"], card["driver"], card["baseline_used_bytes"]) == ("NVIDIA H100 80GB HBM3", None, None)
    assert card["torch_total_bytes"] == 81080 * MIB
