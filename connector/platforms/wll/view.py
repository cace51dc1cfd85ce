"""Views of WLL's webhook bodies and user objects.

Shapes: the vendor's page on webhooks and the types of its SDK; what they leave open is in
docs/unverified.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from connector.runtime.clock import iso, to_millis

_USER = (
    ("emailAddress", "email"),
    ("telephone", "phone"),
    ("birthDate", "birthdate"),
    ("givenName", "first_name"),
    ("familyName", "last_name"),
)
_NAMES = ("first_name", "last_name")
_COVERS = frozenset((*(ours for _, ours in _USER), "balance", "tier", "raw", "withheld"))
WITHHELD = frozenset(("withheld",))


def event_view(
    name: str, occurred_at: int, body: dict[str, Any], email: str | None
) -> dict[str, Any]:
    """`event.name`, `event.time`, `event.properties`, `raw` (the body itself), and `email` if it is
    known apart from the body, which has none. The view shares the body's objects."""
    event: dict[str, Any] = {"name": name, "time": body.get("reportedAt") or iso(occurred_at)}
    view: dict[str, Any] = {"event": event, "raw": body}
    if body.get("payload") is not None:
        event["properties"] = body["payload"]
    if email:
        view["email"] = email
    return view


def person_view(
    user: dict[str, Any], extras: Mapping[str, Any], placeholders: Collection[str] = ()
) -> dict[str, Any]:
    """The person's fields and `raw` (the user object itself). Null or missing parts are missing
    keys, as is a name that is one of `placeholders`.

    The extras `tiers` and `rewards`, as WLL lists them, fill the next tier and the next reward.
    """
    view: dict[str, Any] = {"raw": user}
    for theirs, ours in _USER:
        value = user.get(theirs)
        if value is not None and not (ours in _NAMES and _is_one_of(value, placeholders)):
            view[ours] = value
    wallet = _as_mapping(user.get("wallet"))
    if wallet.get("points") is not None:
        view["balance"] = wallet["points"]
    tier = _as_mapping(wallet.get("tier"))
    effectivity = _as_mapping(tier.get("effectivity"))
    values = {
        "name": tier.get("name"),
        "balance": tier.get("earnedPoints"),
        "entered_at": effectivity.get("start"),
        "expires_at": effectivity.get("end"),
    }
    if found := {word: value for word, value in values.items() if value is not None}:
        view["tier"] = found
    points = _as_number(wallet.get("points"))
    earned = _as_number(tier.get("earnedPoints"))
    tier_points = points if earned is None else earned
    if goal := _next_goal(tier_points, extras.get("tiers", ()), "pointsRequirement"):
        view["next_tier"] = goal
    if goal := _next_goal(points, extras.get("rewards", ()), "price"):
        view["next_reward"] = goal
    return view


def person_covers(extras: Mapping[str, Any]) -> frozenset[str]:
    """The fields that a user object and these extras can show: a user object is always whole."""
    goals = {"tiers": "next_tier", "rewards": "next_reward"}
    return _COVERS.union(goal for extra, goal in goals.items() if extra in extras)


def withheld(
    user: Mapping[str, Any], placeholders: Collection[str]
) -> Literal["restricted", "placeholder"] | None:
    """Why this user's data must not be used; None if it may be."""
    if user.get("isRestricted") not in (None, False):
        return "restricted"
    return "placeholder" if _is_one_of(user.get("emailAddress"), placeholders) else None


def on_sale(reward: Any, now: int) -> bool:
    """Whether the reward can be bought at this time (ms)."""
    window = _as_mapping(_as_mapping(reward).get("availability"))
    start, end = _parse_time(window.get("start")), _parse_time(window.get("end"))
    begun = start is None or start <= now
    purchasable = _as_mapping(reward).get("purchasable") is not False
    return purchasable and begun and (end is None or now < end)


def _next_goal(points: float | None, candidates: Iterable[Any], key: str) -> dict[str, Any]:
    """The cheapest candidate that costs more than the points; empty if there is none."""
    if points is None:
        return {}
    found = [
        (_as_number(_as_mapping(candidate).get(key)), _as_mapping(candidate).get("name"))
        for candidate in candidates
    ]
    out_of_reach = [
        (cost, str(name)) for cost, name in found if cost is not None and cost > points and name
    ]
    if not out_of_reach:
        return {}
    cost, name = min(out_of_reach)
    return {"name": name, "points_needed": cost - points}


def _parse_time(value: Any) -> int | None:
    try:
        return to_millis(datetime.fromisoformat(value).astimezone(UTC))
    except (TypeError, ValueError, OverflowError):
        return None


def _is_one_of(value: Any, values: Collection[str]) -> bool:
    return isinstance(value, str) and value.strip().casefold() in values


def _as_mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _as_number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
