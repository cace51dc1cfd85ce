"""WLL's webhook: `{type, reportedAt, subject, payload}`, with the secret in its address.

Source: the vendor's page on webhooks. WLL signs nothing and gives an event no id, so an event is
identified by its type, subject, time and payload. `subject` is the user's authIdentifier.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import orjson

from connector.domain.records import Record
from connector.platforms.webhooks import (
    is_any_secret,
    malformed,
    parse_object,
    time_field,
    unauthorised,
    usable_secrets,
)
from connector.platforms.wll.settings import Settings

_UPPER_SNAKE = re.compile(r"[A-Z0-9]+(_[A-Z0-9]+)*")
_AUDIENCE_KEYS = ("audienceId", "audience", "audienceName", "id", "name")
"""Where an audience's event may name the audience: no page shows its payload."""


class WllWebhook:
    """connector.ports.Webhook."""

    def __init__(self, settings: Settings) -> None:
        self._secrets = usable_secrets(settings.webhook_secret)
        self._membership_events = {
            type: joined
            for type, joined in ((settings.join_event, True), (settings.leave_event, False))
            if type
        }

    def verify(self, headers: Mapping[str, str], body: bytes, secret: str | None) -> None:
        if not self._secrets:
            raise unauthorised(
                "webhook_secret is not set: choose one; it ends the webhook's address"
            )
        if not is_any_secret(secret or "", self._secrets):
            raise unauthorised("the webhook's address does not end with webhook_secret")

    def parse(self, headers: Mapping[str, str], body: bytes) -> Sequence[Record]:
        event = parse_object(body)
        type, subject = _text(event, "type"), _text(event, "subject")
        payload = event.get("payload")
        if payload is not None and not isinstance(payload, dict):
            raise malformed("`payload` must be a JSON object")
        key = _event_key(type, subject, event.get("reportedAt"), payload or {})
        return [
            Record(
                key=key,
                unique_id=f"wll:{key}",
                name=event_name(type),
                occurred_at=time_field(event, "reportedAt"),
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
    """`PURCHASED_REWARD` → `Purchased Reward`; any other spelling stays as it is."""
    if not _UPPER_SNAKE.fullmatch(type):
        return type
    return " ".join(word.capitalize() for word in type.split("_"))


def _event_key(type: str, subject: str, reported_at: Any, payload: Mapping[str, Any]) -> str:
    """The same whatever the order of the payload's keys."""
    canonical = orjson.dumps([type, subject, reported_at, payload], option=orjson.OPT_SORT_KEYS)
    return blake2b(canonical, digest_size=20).hexdigest()


def _audience_of(payload: Mapping[str, Any]) -> str | None:
    """The audience's id or name, alone or in an object."""
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
        raise malformed(f"`{key}` must be a text of 1 to 200 characters")
    return value.strip()
