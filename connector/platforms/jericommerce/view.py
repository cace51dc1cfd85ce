"""Views of JeriCommerce's webhook bodies and customer objects (shapes: its API reference)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connector.platforms.extras import with_extras
from connector.runtime.clock import iso

_TIER = (
    ("name", "name"),
    ("balance", "balance"),
    ("enteredAt", "entered_at"),
    ("expiresAt", "expires_at"),
)
_USER = (
    ("phone", "phone"),
    ("firstName", "first_name"),
    ("lastName", "last_name"),
    ("birthdate", "birthdate"),
)
_BASE_COVERS = frozenset(
    ("email", "phone", "first_name", "last_name", "birthdate", "balance", "tier.name", "raw")
)
_TIER_COVERS = _BASE_COVERS | {"tier"}


def event_view(
    name: str, occurred_at: int, body: dict[str, Any], email: str | None
) -> dict[str, Any]:
    """`email`, `event.name`, `event.time`, `event.properties`, `raw` (the body itself).

    Older deliveries have no address in the body. What the body lacks is a missing key. The view
    shares the body's objects; they must not be changed.
    """
    # The body's own time where it has one: to format it again costs more than all the rest.
    time = body.get("createdAt") or iso(occurred_at)
    event: dict[str, Any] = {"name": name, "time": time}
    view: dict[str, Any] = {"event": event, "raw": body}
    if "properties" in body:
        event["properties"] = body["properties"]
    address = email or body.get("email")
    if address:
        view["email"] = address
    return view


def person_view(customer: dict[str, Any], extras: Mapping[str, Any]) -> dict[str, Any]:
    """The person's fields and `raw` (the customer object itself).

    `tierStatus` may be the tier's name or an object; missing or null parts are missing keys.
    """
    view: dict[str, Any] = {"raw": customer}
    email = customer.get("email")
    if email is not None:
        view["email"] = email
    user = customer.get("userData")
    if isinstance(user, dict):
        for theirs, ours in _USER:
            value = user.get(theirs)
            if value is not None:
                view[ours] = value
    loyalty = customer.get("loyaltyData")
    if isinstance(loyalty, dict):
        balance = loyalty.get("balance")
        if balance is not None:
            view["balance"] = balance
        if tier := _tier(loyalty.get("tierStatus")):
            view["tier"] = tier
    return with_extras(view, extras)


def person_covers(customer: dict[str, Any]) -> frozenset[str]:
    """The fields of the view that this customer object can show.

    A `tierStatus` that is only a name says nothing about the tier's balance and dates, so they are
    not covered and stay as they are at Klaviyo.
    """
    loyalty = customer.get("loyaltyData")
    status = loyalty.get("tierStatus") if isinstance(loyalty, dict) else None
    return _BASE_COVERS if isinstance(status, str) and status else _TIER_COVERS


def _tier(status: Any) -> dict[str, Any]:
    if isinstance(status, dict):
        return {ours: status[theirs] for theirs, ours in _TIER if status.get(theirs) is not None}
    return {"name": status} if isinstance(status, str) and status else {}
