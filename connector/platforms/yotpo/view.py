"""Views of Yotpo's webhook bodies and customer objects (shapes: its loyalty API reference)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import date
from typing import Any

from connector.runtime.clock import iso

_ENVELOPE_KEYS = frozenset(("topic", "name", "email", "customer"))
_PERSON = (
    ("email", "email"),
    ("phone_number", "phone"),
    ("first_name", "first_name"),
    ("last_name", "last_name"),
    ("points_balance", "balance"),
)
_TIER = (
    ("vip_tier_name", "name"),
    ("vip_tier_entry_date", "entered_at"),
    # The first in responses, the second in webhooks.
    ("vip_tier_expiration", "expires_at"),
    ("vip_tier_ends_at", "expires_at"),
)
_BIRTH = (
    ("birthday_year", "birth_year"),
    ("birthday_month", "birth_month"),
    ("birthday_day", "birth_day"),
)
_COVERS = frozenset(
    ("email", "phone", "first_name", "last_name", "balance", "birthdate", "tier", "next_tier")
)


def event_view(
    name: str, occurred_at: int, body: dict[str, Any], email: str | None
) -> dict[str, Any]:
    """The view of a webhook or of an item of a customer's history: `email`, `event.name`,
    `event.time`, `event.properties`, `raw` (the body itself).

    `properties` leaves out the envelope and `customer`, which is the person before the event (the
    old tier, the balance without the redemption).
    """
    properties = {key: value for key, value in body.items() if key not in _ENVELOPE_KEYS}
    view: dict[str, Any] = {
        "event": {"name": name, "time": iso(occurred_at), "properties": properties},
        "raw": body,
    }
    address = email or body.get("email")
    if address:
        view["email"] = address
    return view


def person_view(customer: dict[str, Any], extras: Mapping[str, Any]) -> dict[str, Any]:
    """The person's fields and `raw` (the customer object itself). Missing parts are missing keys.

    The extras `tiers`, from the lowest up, and `rewards`, as Yotpo lists them, fill the next tier's
    name and the next reward.
    """
    view: dict[str, Any] = {"raw": customer}
    for theirs, ours in _PERSON:
        value = customer.get(theirs)
        if value is not None:
            view[ours] = value
    birthdate = _birthdate(customer)
    if birthdate:
        view["birthdate"] = birthdate
    tier: dict[str, Any] = {}
    for theirs, ours in _TIER:
        value = customer.get(theirs)
        if value is not None:
            tier.setdefault(ours, value)
    completed = customer.get("vip_tier_actions_completed")
    if isinstance(completed, dict) and completed.get("points_earned") is not None:
        tier["balance"] = completed["points_earned"]
    for word, found in (
        ("tier", tier),
        ("next_tier", _next_tier(customer, extras)),
        ("next_reward", _next_reward(customer, extras)),
    ):
        if found:
            view[word] = found
    return view


def person_covers(*, with_catalogue: bool) -> frozenset[str]:
    """The fields that a read of one customer can show. Without tiers and rewards the next tier's
    name and the next reward are not known to be missing."""
    if with_catalogue:
        return _COVERS | {"raw", "next_reward"}
    return (_COVERS - {"next_tier"}) | {"raw", "next_tier.points_needed"}


def listing_covers(customer: Mapping[str, Any]) -> frozenset[str]:
    """The fields that this entry of a list can show: a list leaves some keys out (the next expiry,
    the referral link), and a missing key says nothing."""
    words = {f"raw.{key}" for key in customer}
    words |= {ours for theirs, ours in _PERSON if theirs in customer}
    words |= {f"tier.{ours}" for theirs, ours in _TIER if theirs in customer}
    if "vip_tier_actions_completed" in customer:
        words.add("tier.balance")
    if "vip_tier_upgrade_requirements" in customer:
        words.add("next_tier.points_needed")
    if any(key in customer for keys in _BIRTH for key in keys):
        words.add("birthdate")
    return frozenset(words)


def person_id(customer: Mapping[str, Any]) -> str | None:
    """The shop's own id of a customer. The misspelt key is Yotpo's older one."""
    for key in ("third_party_id", "thirty_party_id"):
        value = customer.get(key)
        if isinstance(value, str) and value.strip() and "\0" not in value:
            return value.strip()
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
    return None


def _birthdate(customer: Mapping[str, Any]) -> str | None:
    """The date; None for a birthday without a year."""
    parts = [str(next((customer[k] for k in keys if k in customer), "")) for keys in _BIRTH]
    with suppress(ValueError, OverflowError):
        year, month, day = (int(part) for part in parts)
        return date(year, month, day).isoformat()
    return None


def _next_tier(customer: Mapping[str, Any], extras: Mapping[str, Any]) -> dict[str, Any]:
    """What is missing for the tier above; empty in the highest one."""
    needed = customer.get("vip_tier_upgrade_requirements")
    if not isinstance(needed, dict) or not needed:
        return {}
    found: dict[str, Any] = {}
    if needed.get("points_needed") is not None:
        found["points_needed"] = needed["points_needed"]
    tiers = [tier.get("name") for tier in _objects(extras, "tiers")]
    names = [name for name in tiers if isinstance(name, str)]
    now = customer.get("vip_tier_name")
    higher_tiers = names[names.index(now) + 1 :] if now in names else names if now is None else []
    if higher_tiers:
        found["name"] = higher_tiers[0]
    return found


def _next_reward(customer: Mapping[str, Any], extras: Mapping[str, Any]) -> dict[str, Any]:
    """The cheapest reward that costs more than the balance."""
    balance = customer.get("points_balance")
    if not isinstance(balance, int) or isinstance(balance, bool):
        return {}
    rewards = [(reward.get("amount"), reward.get("name")) for reward in _objects(extras, "rewards")]
    out_of_reach = [
        (points, name)
        for points, name in rewards
        if type(points) is int and isinstance(name, str) and points > balance
    ]
    if not out_of_reach:
        return {}
    points, name = min(out_of_reach)
    return {"name": name, "points_needed": points - balance}


def _objects(extras: Mapping[str, Any], name: str) -> Iterator[Mapping[str, Any]]:
    items = extras.get(name)
    for item in items if isinstance(items, list) else []:
        if isinstance(item, dict):
            yield item
