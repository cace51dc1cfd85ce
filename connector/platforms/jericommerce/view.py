"""What JeriCommerce says, in the documented words of a view (shapes: its API reference)."""

from __future__ import annotations

from typing import Any

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
    """The view of a webhook: `email`, `event.name/time/properties`, `raw` (the body itself).

    `name` is the header's, `occurred_at` in ms since 1970, `email` what is known apart from the
    body, which older deliveries leave out. What the body does not say is a missing key. The
    view shares the body's objects; nobody may change them.
    """
    # The body's own words where it has them: writing them anew costs more than all the rest.
    time = body.get("createdAt") or iso(occurred_at)
    event: dict[str, Any] = {"name": name, "time": time}
    view: dict[str, Any] = {"event": event, "raw": body}
    if "properties" in body:
        event["properties"] = body["properties"]
    address = email or body.get("email")
    if address:
        view["email"] = address
    return view


def person_view(customer: dict[str, Any], pass_url: str | None = None) -> dict[str, Any]:
    """The view of a customer object: the person's words and `raw` (the object itself).

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
        status = loyalty.get("tierStatus")
        if isinstance(status, dict):
            tier = {
                ours: status[theirs] for theirs, ours in _TIER if status.get(theirs) is not None
            }
            if tier:
                view["tier"] = tier
        elif isinstance(status, str) and status:
            view["tier"] = {"name": status}
    if pass_url is not None:
        view["pass_url"] = pass_url
    return view


def person_covers(customer: dict[str, Any], pass_url: str | None = None) -> frozenset[str]:
    """The words of the view that this customer object could have shown, had it a value for them.

    A `tierStatus` that is only a name says nothing about the tier's balance and dates, so those
    are not covered and stay as they are at Klaviyo; `pass_url` is covered where it was read.
    """
    loyalty = customer.get("loyaltyData")
    status = loyalty.get("tierStatus") if isinstance(loyalty, dict) else None
    covers = _BASE_COVERS if isinstance(status, str) and status else _TIER_COVERS
    return covers if pass_url is None else covers | {"pass_url"}
