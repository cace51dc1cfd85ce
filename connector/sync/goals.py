"""What somebody is close to: the next tier and the next reward, from the configuration's tables
where the platform itself does not say so. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from connector.config import Reward, Tier
from connector.mapping import ConversionError
from connector.mapping.types import to_number
from connector.ports import PersonSnapshot

Threshold = tuple[float, str]
"""Points, and what they reach."""


def goals(
    tiers: Sequence[Tier], rewards: Sequence[Reward]
) -> Callable[[PersonSnapshot], PersonSnapshot]:
    """A function that adds `next_tier` and `next_reward` to what a read showed, unless the
    platform's read itself could show them. Who is beyond the last step has none: the read covers
    the words all the same, so that the fields are removed at Klaviyo."""
    levels = sorted((float(tier.points), tier.name) for tier in tiers)
    prices = sorted((float(reward.cost), reward.name) for reward in rewards)

    def add_goals(snapshot: PersonSnapshot) -> PersonSnapshot:
        goals_found: dict[str, Any] = {}
        covers = set(snapshot.covers)
        for field_name, thresholds, points in (
            ("next_tier", levels, _tier_points(snapshot, levels)),
            ("next_reward", prices, _to_float(snapshot.view.get("balance"))),
        ):
            if not thresholds or points is None or _already_covered(snapshot, field_name):
                continue
            covers.add(field_name)
            if found := _next_goal(points, thresholds):
                goals_found[field_name] = found
        if covers == snapshot.covers:
            return snapshot
        return PersonSnapshot({**snapshot.view, **goals_found}, frozenset(covers))

    return add_goals


def _already_covered(snapshot: PersonSnapshot, field_name: str) -> bool:
    known = (
        covered == field_name or covered.startswith(f"{field_name}.") for covered in snapshot.covers
    )
    return field_name in snapshot.view or any(known)


def _tier_points(snapshot: PersonSnapshot, levels: Sequence[Threshold]) -> float | None:
    """The points that count for tiers: the tier's own balance, and of somebody who is shown in no
    tier the points he has. One who is in a tier has at least that tier's points."""
    tier = snapshot.view.get("tier")
    if not isinstance(tier, Mapping) or not tier:
        return _to_float(snapshot.view.get("balance"))
    points = _to_float(tier.get("balance"))
    if points is None:
        return None
    name = str(tier.get("name", "")).casefold()
    return max(
        [points, *(minimum for minimum, tier_name in levels if tier_name.casefold() == name)]
    )


def _next_goal(points: float, thresholds: Iterable[Threshold]) -> dict[str, Any] | None:
    for minimum, name in thresholds:
        if minimum > points:
            needed = minimum - points
            return {"name": name, "points_needed": int(needed) if needed.is_integer() else needed}
    return None


def _to_float(value: Any) -> float | None:
    try:
        return float(to_number(value))
    except (ConversionError, OverflowError):
        return None
