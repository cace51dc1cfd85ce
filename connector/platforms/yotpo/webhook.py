"""Yotpo's webhook: a shared secret in the address or a header, one JSON object an event.

Source: the loyalty API reference and Swell's own docs (facts: Yotpo, section 5). No signature, no
event id in the body and no time of the event itself are documented.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

import orjson

from connector.domain.errors import Malformed, Problem, Unauthorised
from connector.domain.lanes import Millis
from connector.domain.records import Record
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
    """connector.ports.Webhook. `now` is for events that do not say when they happened."""

    def __init__(self, settings: Settings, now: Callable[[], Millis] = _CLOCK.now) -> None:
        # An empty secret would let in whoever presents nothing.
        secrets = [secret.get_secret_value() for secret in settings.webhook_secret]
        self._secrets = [secret.encode() for secret in secrets if secret.strip()]
        self._header = settings.webhook_secret_header
        self._window = round(settings.repeat_window * 1000)
        self._now = now

    def verify(self, headers: Mapping[str, str], body: bytes, secret: str | None) -> None:
        if not self._secrets:
            raise _unsigned("webhook_secret is not set: choose one, it ends the webhook's address")
        given = [secret or ""]
        if self._header:
            given.append(headers.get(self._header, "").strip())
        presented = [text.encode(errors="replace") for text in given if text]
        if not presented:
            where = f" or in header {self._header}" if self._header else ""
            raise _unsigned(f"the secret is missing at the end of the address{where}")
        # No shortcut: each pair takes its time, so that none tells which one was close.
        matches = [hmac.compare_digest(a, b) for a in presented for b in self._secrets]
        if not any(matches):
            raise _unsigned("the secret presented is not webhook_secret")

    def parse(self, headers: Mapping[str, str], body: bytes) -> Sequence[Record]:
        try:
            payload = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise _malformed(f"the body is not JSON: {error}") from error
        if not isinstance(payload, dict):
            raise _malformed("the body must be a JSON object")
        now = self._now()
        customer = payload.get("customer")
        customer = customer if isinstance(customer, dict) else {}
        email = _address(payload, "email") or _address(customer, "email")
        # Where a friend is told of, `customer` is whoever shared.
        is_same_person = email is None or email == _address(customer, "email")
        id = headers.get(EVENT_ID, "").strip()
        if 0 < len(id) <= _ID_MAX and id.isprintable():
            key, unique_id, window = id, f"yotpo:{id}", None
        else:
            key = sha256(body).hexdigest()
            # Whatever counts again lies a window apart at least, so in another half of one.
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
    (then UTC), or with ` UTC` behind it. None for everything else, and for times before 2000, which
    Klaviyo would not take."""
    if not isinstance(text, str):
        return None
    text = text.strip().removesuffix(" UTC")
    try:
        found = datetime.fromisoformat(text)
        return to_millis(found) if found.year >= _EARLIEST_YEAR else None
    except (ValueError, OverflowError):
        return None


def latest_time(item: Mapping[str, Any]) -> Millis | None:
    """When it happened: of the moments that an item names the latest, for points that were pending
    happen when they are awarded."""
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
    """The event's name without its owner's: `Swell Points Earned` and `swell/points/earned` are
    both Points Earned."""
    name = payload.get("name")
    if not isinstance(name, str) or not name.strip():
        topic = payload.get("topic")
        if not isinstance(topic, str) or not topic.strip(" /"):
            raise _malformed("`name` or `topic` must say what happened")
        name = topic.replace("/", " ").replace("_", " ").title()
    name = " ".join(name.split())
    if name.lower().startswith(_VENDOR_PREFIXES):
        name = name[len("swell ") :]
    if len(name) > _NAME_MAX or not name.isprintable():
        raise _malformed(f"`name` must be a text of 1 to {_NAME_MAX} letters")
    return name


def _address(payload: Mapping[str, Any], key: str) -> str | None:
    value = payload.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or "\0" in value:
        raise _malformed(f"`{key}` must be a text")
    return value.strip().lower() or None


def _malformed(detail: str) -> Malformed:
    return Malformed(Problem.WEBHOOK_MALFORMED, detail)


def _unsigned(detail: str) -> Unauthorised:
    return Unauthorised(Problem.WEBHOOK_UNSIGNED, detail)
