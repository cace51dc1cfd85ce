"""WLL's webhook: `{type, reportedAt, subject, payload}`, with our secret in its address.

Source: the vendor's page on webhooks. It signs nothing and gives an event no id, so an event is
known by its type, subject, time and payload. `subject` is the user's authIdentifier.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Any

import orjson

from connector.domain.errors import Malformed, Problem, Unauthorised
from connector.domain.lanes import Millis
from connector.domain.records import Record
from connector.platforms.wll.settings import Settings
from connector.runtime.clock import to_millis

_UPPER_SNAKE = re.compile(r"[A-Z0-9]+(_[A-Z0-9]+)*")
_AUDIENCE_KEYS = ("audienceId", "audience", "audienceName", "id", "name")
"""Where an audience's event may say which one: no page shows its payload."""


class WllWebhook:
    """connector.ports.Webhook."""

    def __init__(self, settings: Settings) -> None:
        # An empty secret would let in whoever presents nothing.
        secrets = [secret.get_secret_value() for secret in settings.webhook_secret]
        self._secrets = [secret.encode() for secret in secrets if secret.strip()]
        self._membership_events = {
            type: joined
            for type, joined in ((settings.join_event, True), (settings.leave_event, False))
            if type
        }

    def verify(self, headers: Mapping[str, str], body: bytes, secret: str | None) -> None:
        if not self._secrets:
            raise Unauthorised(
                Problem.WEBHOOK_UNSIGNED,
                "webhook_secret is not set: choose one and end the webhook's address with it",
            )
        given = (secret or "").encode()
        if not any(hmac.compare_digest(given, known) for known in self._secrets):
            raise Unauthorised(
                Problem.WEBHOOK_UNSIGNED, "the webhook's address does not end with webhook_secret"
            )

    def parse(self, headers: Mapping[str, str], body: bytes) -> Sequence[Record]:
        try:
            event = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise _malformed(f"the body is not JSON: {error}") from error
        if not isinstance(event, dict):
            raise _malformed("the body must be a JSON object")
        type, subject = _text(event, "type"), _text(event, "subject")
        payload = event.get("payload")
        if payload is not None and not isinstance(payload, dict):
            raise _malformed("`payload` must be a JSON object")
        key = _event_key(type, subject, event.get("reportedAt"), payload or {})
        return [
            Record(
                key=key,
                unique_id=f"wll:{key}",
                name=event_name(type),
                occurred_at=_occurred_at(event.get("reportedAt")),
                data=body,
                person=subject,
                membership=self._membership_change(type, payload or {}),
            )
        ]

    def _membership_change(self, type: str, payload: Mapping[str, Any]) -> tuple[str, bool] | None:
        if type not in self._membership_events:
            return None
        audience = _audience_of(payload)
        return (audience, self._membership_events[type]) if audience else None


def event_name(type: str) -> str:
    """`PURCHASED_REWARD` → `Purchased Reward`; what is not shouted stays as it is."""
    if not _UPPER_SNAKE.fullmatch(type):
        return type
    return " ".join(word.capitalize() for word in type.split("_"))


def _event_key(type: str, subject: str, reported_at: Any, payload: Mapping[str, Any]) -> str:
    """The same whatever the order of the payload's keys."""
    canonical = orjson.dumps([type, subject, reported_at, payload], option=orjson.OPT_SORT_KEYS)
    return blake2b(canonical, digest_size=20).hexdigest()


def _audience_of(payload: Mapping[str, Any]) -> str | None:
    """The audience's id or name, by itself or in an object."""
    for key in _AUDIENCE_KEYS:
        value = payload.get(key)
        if isinstance(value, dict):
            value = value.get("id") or value.get("name")
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
            return str(value).strip()
    return None


def _text(event: dict[str, Any], key: str) -> str:
    value = event.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not 1 <= len(value.strip()) <= 200 or "\0" in value:
        raise _malformed(f"`{key}` must be a text of 1 to 200 letters")
    return value.strip()


def _occurred_at(value: Any) -> Millis:
    try:
        if isinstance(value, str):
            return to_millis(datetime.fromisoformat(value))
    except (ValueError, OverflowError):
        pass
    raise _malformed("`reportedAt` must be the time of the event, ISO 8601")


def _malformed(detail: str) -> Malformed:
    return Malformed(Problem.WEBHOOK_MALFORMED, detail)
