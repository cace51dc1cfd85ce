"""What a person's decision covers (guarantee 6): exactly what was asked, and nothing later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BACKFILL = "backfill"
FIRST_SYNC = "first_sync"
MASS_UNSET = "mass_unset"
REMOVAL = "removal"

DEFAULT_SHARE = 0.3
"""How far the number of people may differ from the number that was asked for, where no setting says
so."""
_FACTS = ("account", "target", "target_id", "mapping", "live_flows")
_VALID_FOR = "valid_for_people"


def with_range(detail: Mapping[str, Any], people: int | None, share: float) -> dict[str, Any]:
    """The detail of a request, with the numbers of people that a decision holds for."""
    if people is None:
        return dict(detail)
    least, most = _range(people, share, approved=True)
    return {**detail, _VALID_FOR: str(people) if least == most else f"{least} to {most}"}


def holds_for(
    asked: Mapping[str, Any],
    now: Mapping[str, Any],
    *,
    count: str,
    share: float,
    approved: bool,
) -> bool:
    """Whether a decision on what was `asked` answers what is asked `now`: the same account, target
    and live flows, and as many people, give or take `share` (of an approval at least one). `count`
    is the key of the number of people; facts that one of the two does not name are not compared."""
    if any(name in asked and name in now and asked[name] != now[name] for name in _FACTS):
        return False
    before, after = asked.get(count), now.get(count)
    if not isinstance(before, int) or not isinstance(after, int):
        return before == after
    least, most = _range(before, share, approved=approved)
    return least <= after <= most


def _range(people: int, share: float, *, approved: bool) -> tuple[int, int]:
    tolerance = max(int(people * share), int(approved))
    return max(0, people - tolerance), people + tolerance
