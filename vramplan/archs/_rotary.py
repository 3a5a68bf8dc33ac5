"""How much of a head is rotated, where the config may say less than all of it."""

from __future__ import annotations

from vramplan.archs._config import ConfigReader


def partial_rotary_dim(
    config: ConfigReader, head_dim: int, *, absent: float, name: str = "partial_rotary_factor"
) -> int:
    """The rotated widths of a head.

    Since transformers 5 the factor lives in `rope_parameters` (or `rope_scaling`, its older name), and before that
    at the top of the config, where gpt_neox called it `rotary_pct`.

    Args:
        config: the config.
        head_dim: the width of a head.
        absent: the factor where the config has none.
        name: its older, top-level name.
    """
    nested = config.section("rope_scaling") or config.section("rope_parameters")
    factor = None if nested is None else nested.number("partial_rotary_factor", absent=None)
    if factor is None:
        factor = config.number(name, absent=None)
    rotated = int(head_dim * (absent if factor is None else factor))
    if not 0 < rotated <= head_dim:
        raise config.error(f"`{name}` is {factor}, which rotates {rotated} of {head_dim} widths")
    return rotated
