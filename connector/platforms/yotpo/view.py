"""What Yotpo says, in the documented words of a view (shapes: its loyalty API reference)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
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
    # Answers say the first, webhooks the second.
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


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What can be reached: names of tiers from the lowest up, rewards as (points, name)."""

    tiers: Sequence[str] = ()
    rewards: Sequence[tuple[int, str]] = ()


EMPTY_CATALOGUE = Catalogue()


def event_view(
    name: str, occurred_at: int, body: dict[str, Any], email: str | None
) -> dict[str, Any]:
    """The view of a webhook, or of an item of a customer's history: `email`,
    `event.name/time/properties`, `raw` (the body itself).

    `properties` leaves out the envelope and `customer`: the person there is as of before the event
    (the old tier, the balance without the redemption), so nothing of him is the event's.
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


def person_view(
    customer: dict[str, Any], link: str | None = None, catalogue: Catalogue = EMPTY_CATALOGUE
) -> dict[str, Any]:
    """The view of a customer object: the person's words and `raw` (the object itself).

    `catalogue` fills the next tier's name and the next reward. Missing parts are missing keys.
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
        ("next_tier", _next_tier(customer, catalogue)),
        ("next_reward", _next_reward(customer, catalogue)),
    ):
        if found:
            view[word] = found
    return view


def person_covers(catalogue: Catalogue | None = None) -> frozenset[str]:
    """The words that a read of one customer could have shown. Without a catalogue the next tier's
    name and the next reward are not known to be missing."""
    if catalogue is not None:
        return _COVERS | {"raw", "next_reward"}
    return (_COVERS - {"next_tier"}) | {"raw", "next_tier.points_needed"}


def listing_covers(customer: Mapping[str, Any]) -> frozenset[str]:
    """The words that this entry of a listing could have shown: a listing leaves some keys out (the
    next expiry, the referral link), and a key that is not there says nothing."""
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
    """The shop's own id of a customer. The older spelling is Yotpo's."""
    for key in ("third_party_id", "thirty_party_id"):
        value = customer.get(key)
        if isinstance(value, str) and value.strip() and "\0" not in value:
            return value.strip()
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
    return None


def _birthdate(customer: Mapping[str, Any]) -> str | None:
    """The parts as a date; a birthday whose year is not told is none."""
    parts = [str(next((customer[k] for k in keys if k in customer), "")) for keys in _BIRTH]
    with suppress(ValueError, OverflowError):
        year, month, day = (int(part) for part in parts)
        return date(year, month, day).isoformat()
    return None


def _next_tier(customer: Mapping[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    """What is missing for the tier above; nothing in the highest one."""
    needed = customer.get("vip_tier_upgrade_requirements")
    if not isinstance(needed, dict) or not needed:
        return {}
    found: dict[str, Any] = {}
    if needed.get("points_needed") is not None:
        found["points_needed"] = needed["points_needed"]
    names, now = list(catalogue.tiers), customer.get("vip_tier_name")
    higher_tiers = names[names.index(now) + 1 :] if now in names else names if now is None else []
    if higher_tiers:
        found["name"] = higher_tiers[0]
    return found


def _next_reward(customer: Mapping[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    """The cheapest reward that the balance does not reach yet."""
    balance = customer.get("points_balance")
    if not isinstance(balance, int) or isinstance(balance, bool):
        return {}
    out_of_reach = [reward for reward in catalogue.rewards if reward[0] > balance]
    if not out_of_reach:
        return {}
    points, name = min(out_of_reach)
    return {"name": name, "points_needed": points - balance}
