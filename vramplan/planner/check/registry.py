"""Every rule by its id, and the choice of some of them."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from vramplan.errors import UsageError
from vramplan.planner.check.carried_text import CARRIED_RULES
from vramplan.planner.check.rule import Rule
from vramplan.planner.check.rules_batch import BATCH_RULES
from vramplan.planner.check.rules_card import CARD_RULES
from vramplan.planner.check.rules_groups import GROUP_RULES
from vramplan.planner.check.rules_lengths import LENGTH_RULES
from vramplan.planner.check.rules_loading import LOADING_RULES
from vramplan.planner.check.rules_names import NAME_RULES
from vramplan.planner.check.rules_place import PLACE_RULES
from vramplan.planner.check.rules_reach import REACH_RULES
from vramplan.planner.check.rules_reference import REFERENCE_RULES
from vramplan.planner.check.rules_self import SELF_RULES
from vramplan.planner.check.rules_units import UNIT_RULES
from vramplan.planner.check.rules_versions import VERSION_RULES
from vramplan.planner.check.scripts import SCRIPT_RULES

RULES: tuple[Rule, ...] = tuple(
    sorted(
        (
            *BATCH_RULES,
            *GROUP_RULES,
            *LENGTH_RULES,
            *LOADING_RULES,
            *REACH_RULES,
            *NAME_RULES,
            *REFERENCE_RULES,
            *PLACE_RULES,
            *UNIT_RULES,
            *VERSION_RULES,
            *CARD_RULES,
            *SELF_RULES,
            *SCRIPT_RULES,
            *CARRIED_RULES,
        ),
        key=lambda rule: rule.id,
    )
)


def find_rule(name: str) -> Rule:
    """The rule of that id.

    Raises:
        UsageError: there is none; the hint names the nearest.
    """
    wanted = name.strip().upper()
    for rule in RULES:
        if rule.id == wanted:
            return rule
    near = get_close_matches(wanted, [rule.id for rule in RULES], n=1)
    raise UsageError(
        f"there is no rule {name!r}",
        hint=f"the nearest is {near[0]}" if near else f"the rules are {RULES[0].id} to {RULES[-1].id}",
    )


def choose(select: Sequence[str], ignore: Sequence[str]) -> frozenset[str]:
    """Ids of the rules to look for; `VP04` stands for every rule that begins so.

    Args:
        select: ids or their beginnings; all where it is empty.
        ignore: those to leave out.

    Raises:
        UsageError: one of them is no rule's beginning.
    """
    chosen = _matching(select) if select else frozenset(rule.id for rule in RULES)
    return chosen - _matching(ignore)


def _matching(names: Sequence[str]) -> frozenset[str]:
    found: set[str] = set()
    for name in names:
        prefix = name.strip().upper()
        ids = {rule.id for rule in RULES if prefix and rule.id.startswith(prefix)}
        found |= ids or {find_rule(name).id}
    return frozenset(found)
