"""Describes the card as MemoryCallback does, and prints it as JSON: for the contract tests.

Arguments: a file to list this process in as a holder of 700 bytes, and whether it had a context before the first look.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

from vramplan.integrations._card import describe_card, look_at_idle_cards
from vramplan.records.record import plain

idle = look_at_idle_cards(has_context=sys.argv[2] == "context")
if sys.argv[1] != "-":
    Path(sys.argv[1]).write_text(f"{os.getpid()}:700\n")
properties = SimpleNamespace(
    name="NVIDIA H100 80GB HBM3",
    uuid="00000001-0000-0000-0000-000000000000",
    total_memory=81080 * 2**20,
    major=9,
    minor=0,
    multi_processor_count=132,
)
print(json.dumps(plain(describe_card(properties, idle))))
