"""JeriCommerce's webhook: raw-body HMAC, the event's name in a header, 18 kinds of event.

Source: the vendor's event reference (facts: JeriCommerce, section 2). What is signed and how it is
encoded is not stated there: the raw body is verified and hex and base64 are both taken, unless
`webhook_encoding` names one (docs/unverified.md).
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

import orjson

from connector.domain.errors import Malformed, Problem, Unauthorised
from connector.domain.lanes import Millis
from connector.domain.records import Record
from connector.platforms.jericommerce.settings import Settings
from connector.runtime.clock import to_millis

SIGNATURE = "x-jericommerce-hmac-sha256"
EVENT_TYPE = "x-jericommerce-event-type"
_NAME_MAX = 200


class JeriCommerceWebhook:
    """connector.ports.Webhook."""

    def __init__(self, settings: Settings) -> None:
        # An empty key would let in whoever signs with nothing.
        keys = [key.get_secret_value() for key in settings.webhook_secret]
        self._keys = [key.encode() for key in keys if key.strip()]
        self._hex = settings.webhook_encoding in ("auto", "hex")
        self._base64 = settings.webhook_encoding in ("auto", "base64")

    def verify(self, headers: Mapping[str, str], body: bytes, secret: str | None) -> None:
        if not self._keys:
            raise Unauthorised(
                Problem.WEBHOOK_UNSIGNED,
                "webhook_secret is not set: copy it from JeriCommerce's integration page",
            )
        given = headers.get(SIGNATURE, "").strip()
        if not given:
            raise Unauthorised(Problem.WEBHOOK_UNSIGNED, f"header {SIGNATURE} is missing")
        if not any(self._matches(key, given, body) for key in self._keys):
            raise Unauthorised(
                Problem.WEBHOOK_UNSIGNED,
                f"{SIGNATURE} does not match the body: is webhook_secret the one on "
                "JeriCommerce's integration page?",
            )

    def _matches(self, key: bytes, given: str, body: bytes) -> bool:
        digest = hmac.digest(key, body, sha256)
        as_hex = self._hex and hmac.compare_digest(digest.hex(), _ascii_or_empty(given.lower()))
        in_base64 = self._base64 and hmac.compare_digest(
            base64.b64encode(digest).decode(), _ascii_or_empty(given)
        )
        return as_hex or in_base64

    def parse(self, headers: Mapping[str, str], body: bytes) -> Sequence[Record]:
        name = headers.get(EVENT_TYPE, "").strip()
        if not name or len(name) > _NAME_MAX:
            raise _malformed(f"header {EVENT_TYPE} must name the event in 1 to {_NAME_MAX} letters")
        try:
            payload = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise _malformed(f"the body is not JSON: {error}") from error
        if not isinstance(payload, dict):
            raise _malformed("the body must be a JSON object")
        id = _text(payload, "id")
        if not id or len(id) > 200:
            raise _malformed("`id` must be the event's id, a text of 1 to 200 letters")
        properties = payload.get("properties")
        if properties is not None and not isinstance(properties, dict):
            raise _malformed("`properties` must be a JSON object")
        email = _text(payload, "email")
        return [
            Record(
                key=id,
                unique_id=f"jericommerce:{id}",
                name=name,
                occurred_at=_occurred_at(payload),
                data=body,
                person=_text(payload, "customerId"),
                email=email.lower() if email else None,
            )
        ]


def _ascii_or_empty(text: str) -> str:
    """compare_digest refuses other letters; none of them can match."""
    return text if text.isascii() else ""


def _text(payload: dict[str, Any], key: str) -> str | None:
    value = payload.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or "\0" in value:
        raise _malformed(f"`{key}` must be a text")
    return value.strip() or None


def _occurred_at(payload: dict[str, Any]) -> Millis:
    value = payload.get("createdAt")
    if not isinstance(value, str):
        raise _malformed("`createdAt` must be the time of the event, ISO 8601")
    try:
        return to_millis(datetime.fromisoformat(value))
    except ValueError as error:
        raise _malformed("`createdAt` is not an ISO 8601 time") from error


def _malformed(detail: str) -> Malformed:
    return Malformed(Problem.WEBHOOK_MALFORMED, detail)
