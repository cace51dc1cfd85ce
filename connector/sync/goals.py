"""What somebody is close to: the next tier and the next reward, from the configuration's tables
where the platform itself does not say so. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from connector.config import Reward, Tier
from connector.mapping import Unfit
from connector.mapping.types import to_number
from connector.ports import Sight

Step = tuple[float, str]
"""Points, and what they reach."""


def signals(tiers: Sequence[Tier], rewards: Sequence[Reward]) -> Callable[[Sight], Sight]:
    """A function that adds `next_tier` and `next_reward` to what a read showed, unless the
    platform's read itself could show them. Who is beyond the last step has none: the read covers
    the words all the same, so that the fields are removed at Klaviyo."""
    levels = sorted((float(tier.points), tier.name) for tier in tiers)
    prices = sorted((float(reward.cost), reward.name) for reward in rewards)

    def sharpen(sight: Sight) -> Sight:
        added: dict[str, Any] = {}
        covers = set(sight.covers)
        for word, steps, points in (
            ("next_tier", levels, _tier_points(sight, levels)),
            ("next_reward", prices, _number(sight.view.get("balance"))),
        ):
            if not steps or points is None or _says(sight, word):
                continue
            covers.add(word)
            if found := _next(points, steps):
                added[word] = found
        if covers == sight.covers:
            return sight
        return Sight({**sight.view, **added}, frozenset(covers))

    return sharpen


def _says(sight: Sight, word: str) -> bool:
    known = (covered == word or covered.startswith(f"{word}.") for covered in sight.covers)
    return word in sight.view or any(known)


def _tier_points(sight: Sight, levels: Sequence[Step]) -> float | None:
    """The points that count for tiers: the tier's own balance, and of somebody who is shown in no
    tier the points he has. One who is in a tier has at least that tier's points."""
    tier = sight.view.get("tier")
    if not isinstance(tier, Mapping) or not tier:
        return _number(sight.view.get("balance"))
    points = _number(tier.get("balance"))
    if points is None:
        return None
    name = str(tier.get("name", "")).casefold()
    return max([points, *(least for least, called in levels if called.casefold() == name)])


def _next(points: float, steps: Iterable[Step]) -> dict[str, Any] | None:
    for least, name in steps:
        if least > points:
            needed = least - points
            return {"name": name, "points_needed": int(needed) if needed.is_integer() else needed}
    return None


def _number(value: Any) -> float | None:
    try:
        return float(to_number(value))
    except (Unfit, OverflowError):
        return None
