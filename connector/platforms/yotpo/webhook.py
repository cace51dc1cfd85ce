"""Yotpo's webhook: a shared secret in the address or a header, one JSON object per event.

Source: the loyalty API reference and Swell's own docs. No signature, no event id in the body and no
time of the event itself are documented.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

from connector.domain.lanes import Millis
from connector.domain.records import Record
from connector.platforms.webhooks import (
    is_any_secret,
    malformed,
    parse_object,
    text_field,
    unauthorised,
    usable_secrets,
)
from connector.platforms.yotpo.settings import Settings
from connector.platforms.yotpo.view import person_id
from connector.runtime.clock import SystemClock, to_millis

EVENT_ID = "eventid"
_NAME_MAX = _ID_MAX = 200
_EARLIEST_YEAR = 2000
_CLOCK = SystemClock()
_VENDOR_PREFIXES = ("swell ", "yotpo ")
_TIME_KEYS = ("awarded_at", "awarded", "completed_at", "completed", "created_at", "date")


class YotpoWebhook:
    """connector.ports.Webhook. `now` is the time of events without a time."""

    def __init__(self, settings: Settings, now: Callable[[], Millis] = _CLOCK.now) -> None:
        self._secrets = usable_secrets(settings.webhook_secret)
        self._header = settings.webhook_secret_header
        self._window = round(settings.repeat_window * 1000)
        self._now = now

    def verify(self, headers: Mapping[str, str], body: bytes, secret: str | None) -> None:
        if not self._secrets:
            raise unauthorised(
                "webhook_secret is not set: choose one; it ends the webhook's address"
            )
        given = [secret or ""]
        if self._header:
            given.append(headers.get(self._header, "").strip())
        presented = [text for text in given if text]
        if not presented:
            where = f" or in header {self._header}" if self._header else ""
            raise unauthorised(f"the secret is missing at the end of the address{where}")
        # Each is compared, so that the time taken does not depend on which one matches.
        matches = [is_any_secret(text, self._secrets) for text in presented]
        if not any(matches):
            raise unauthorised("the secret in the request is not webhook_secret")

    def parse(self, headers: Mapping[str, str], body: bytes) -> Sequence[Record]:
        payload = parse_object(body)
        now = self._now()
        customer = payload.get("customer")
        customer = customer if isinstance(customer, dict) else {}
        email = _address(payload) or _address(customer)
        # In events about a friend, `customer` is the person who shared.
        is_same_person = email is None or email == _address(customer)
        id = headers.get(EVENT_ID, "").strip()
        if 0 < len(id) <= _ID_MAX and id.isprintable():
            key, unique_id, window = id, f"yotpo:{id}", None
        else:
            key = sha256(body).hexdigest()
            # An event that counts again comes at least a window later, so in another half of one.
            unique_id = f"yotpo:{key[:40]}:{now // max(1, self._window // 2)}"
            window = self._window
        return [
            Record(
                key=key,
                unique_id=unique_id,
                name=_name(payload),
                occurred_at=min(_occurred_at(payload) or now, now),
                data=body,
                person=person_id(customer) if is_same_person else None,
                email=email,
                repeat_window=window,
            )
        ]


def parse_time(text: Any) -> Millis | None:
    """An instant in any of the forms that Yotpo writes: a date, ISO 8601 with or without a zone
    (then UTC), or with ` UTC` behind it. None for anything else, and for times before 2000, which
    Klaviyo does not accept."""
    if not isinstance(text, str):
        return None
    text = text.strip().removesuffix(" UTC")
    try:
        found = datetime.fromisoformat(text)
        return to_millis(found) if found.year >= _EARLIEST_YEAR else None
    except (ValueError, OverflowError):
        return None


def latest_time(item: Mapping[str, Any]) -> Millis | None:
    """The latest of the times of an item: points that were pending count from when they are
    awarded."""
    found = [at for at in (parse_time(item.get(key)) for key in _TIME_KEYS) if at is not None]
    return max(found, default=None)


def _occurred_at(payload: Mapping[str, Any]) -> Millis | None:
    for part in ("redemption", "perk"):
        item = payload.get(part)
        at = latest_time(item) if isinstance(item, dict) else None
        if at is not None:
            return at
    return None


def _name(payload: Mapping[str, Any]) -> str:
    """The event's name without the vendor's: `Swell Points Earned` and `swell/points/earned` are
    both Points Earned."""
    name = payload.get("name")
    if not isinstance(name, str) or not name.strip():
        topic = payload.get("topic")
        if not isinstance(topic, str) or not topic.strip(" /"):
            raise malformed("`name` or `topic` must name the event")
        name = topic.replace("/", " ").replace("_", " ").title()
    name = " ".join(name.split())
    if name.lower().startswith(_VENDOR_PREFIXES):
        name = name[len("swell ") :]
    if len(name) > _NAME_MAX or not name.isprintable():
        raise malformed(f"`name` must be a text of 1 to {_NAME_MAX} characters")
    return name


def _address(payload: Mapping[str, Any]) -> str | None:
    email = text_field(payload, "email")
    return email.lower() if email else None
