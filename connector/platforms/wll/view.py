"""What WLL says, in the documented words of a view.

Shapes: the webhook's page and the SDK's types (facts: WLL, 2 and 3); what they leave open is in
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
COVERS = frozenset((*(ours for _, ours in _USER), "balance", "tier", "raw", "withheld"))
"""A user is shown whole, so what is missing is none."""
WITHHELD = frozenset(("withheld",))


def event_view(
    name: str, occurred_at: int, body: dict[str, Any], email: str | None
) -> dict[str, Any]:
    """The view of a webhook: `event.name/time/properties`, `raw` (the body itself), and `email`
    where it is known; WLL's webhooks tell none. The view shares the body's objects."""
    event: dict[str, Any] = {"name": name, "time": body.get("reportedAt") or iso(occurred_at)}
    view: dict[str, Any] = {"event": event, "raw": body}
    if body.get("payload") is not None:
        event["properties"] = body["payload"]
    if email:
        view["email"] = email
    return view


def person_view(user: dict[str, Any], pass_url: str | None = None) -> dict[str, Any]:
    """The view of a user object; null or missing parts are missing keys. WLL has no passes."""
    return user_view(user, ())


def user_view(user: Mapping[str, Any], placeholders: Collection[str]) -> dict[str, Any]:
    """`person_view`, without names that stand for none."""
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
    return view


def withheld(
    user: Mapping[str, Any], placeholders: Collection[str]
) -> Literal["restricted", "placeholder"] | None:
    """Why nothing of this user may be told."""
    if user.get("isRestricted") not in (None, False):
        return "restricted"
    return "placeholder" if _is_one_of(user.get("emailAddress"), placeholders) else None


def next_tier(user: Mapping[str, Any], tiers: Iterable[Any]) -> dict[str, Any] | None:
    """The tier with the least `pointsRequirement` above what the user has earned."""
    wallet = _as_mapping(user.get("wallet"))
    earned = _as_number(_as_mapping(wallet.get("tier")).get("earnedPoints"))
    points = _as_number(wallet.get("points")) if earned is None else earned
    return _next_goal(points, tiers, "pointsRequirement")


def next_reward(user: Mapping[str, Any], rewards: Iterable[Any], now: int) -> dict[str, Any] | None:
    """The cheapest reward on sale that the user's points do not reach yet."""
    points = _as_number(_as_mapping(user.get("wallet")).get("points"))
    return _next_goal(points, [r for r in rewards if _on_sale(_as_mapping(r), now)], "price")


def _next_goal(points: float | None, candidates: Iterable[Any], key: str) -> dict[str, Any] | None:
    if points is None:
        return None
    found = [
        (_as_number(_as_mapping(candidate).get(key)), _as_mapping(candidate).get("name"))
        for candidate in candidates
    ]
    out_of_reach = [
        (cost, str(name)) for cost, name in found if cost is not None and cost > points and name
    ]
    if not out_of_reach:
        return None
    cost, name = min(out_of_reach)
    return {"name": name, "points_needed": cost - points}


def _on_sale(reward: Mapping[str, Any], now: int) -> bool:
    window = _as_mapping(reward.get("availability"))
    start, end = _parse_time(window.get("start")), _parse_time(window.get("end"))
    begun = start is None or start <= now
    return reward.get("purchasable") is not False and begun and (end is None or now < end)


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
