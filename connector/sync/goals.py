"""The next tier and the next reward of a person, from the tables in the configuration where the
platform itself does not report them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from connector.config import Reward, Tier
from connector.mapping import ConversionError
from connector.mapping.types import to_number
from connector.ports import PersonSnapshot

Threshold = tuple[float, str]
"""(points, name of the tier or reward that they reach)."""


def goals(
    tiers: Sequence[Tier], rewards: Sequence[Reward]
) -> Callable[[PersonSnapshot], PersonSnapshot]:
    """A function that adds `next_tier` and `next_reward` to a snapshot, unless the snapshot covers
    them itself. A person above the last goal gets no value, but the snapshot covers the field, so
    that it is unset at Klaviyo."""
    levels = sorted((float(tier.points), tier.name) for tier in tiers)
    prices = sorted((float(reward.cost), reward.name) for reward in rewards)

    def add_goals(snapshot: PersonSnapshot) -> PersonSnapshot:
        added: dict[str, Any] = {}
        covers = set(snapshot.covers)
        for field_name, thresholds, points in (
            ("next_tier", levels, _tier_points(snapshot, levels)),
            ("next_reward", prices, _to_float(snapshot.view.get("balance"))),
        ):
            if not thresholds or points is None or _already_covered(snapshot, field_name):
                continue
            covers.add(field_name)
            if goal := _next_goal(points, thresholds):
                added[field_name] = goal
        if covers == snapshot.covers:
            return snapshot
        return replace(snapshot, view={**snapshot.view, **added}, covers=frozenset(covers))

    return add_goals


def _already_covered(snapshot: PersonSnapshot, field_name: str) -> bool:
    return field_name in snapshot.view or any(
        covered == field_name or covered.startswith(f"{field_name}.") for covered in snapshot.covers
    )


def _tier_points(snapshot: PersonSnapshot, levels: Sequence[Threshold]) -> float | None:
    """The points that count for tiers: the balance of the tier, but at least the points of the
    tier that the person is in. Without a tier it is the person's own balance."""
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
