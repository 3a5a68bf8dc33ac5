"""The whole program, started as the `vramplan` script starts it."""

from __future__ import annotations

from vramplan.cli.app import main

main()
