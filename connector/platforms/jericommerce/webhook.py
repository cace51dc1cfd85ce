"""JeriCommerce's webhook: an HMAC of the raw body, the event's name in a header.

Source: JeriCommerce's event reference. It does not state what is signed and how the signature is
encoded: the raw body is verified, and hex and base64 are both accepted unless `webhook_encoding`
names one (docs/unverified.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from connector.domain.records import Record
from connector.platforms.jericommerce.settings import Settings
from connector.platforms.webhooks import (
    Encoding,
    header_text,
    is_signed,
    malformed,
    parse_object,
    text_field,
    time_field,
    unauthorised,
    usable_secrets,
)

SIGNATURE = "x-jericommerce-hmac-sha256"
EVENT_TYPE = "x-jericommerce-event-type"
_NAME_MAX = _ID_MAX = 200
_NEW_PASS_EVENTS = frozenset({"wallet pass requested", "wallet pass uninstalled"})
"""After these the link to the person's wallet pass is another."""


class JeriCommerceWebhook:
    """connector.ports.Webhook."""

    def __init__(self, settings: Settings) -> None:
        self._keys = usable_secrets(settings.webhook_secret)
        self._encodings: tuple[Encoding, ...] = ("hex", "base64")
        if settings.webhook_encoding != "auto":
            self._encodings = (settings.webhook_encoding,)

    def verify(self, headers: Mapping[str, str], body: bytes, secret: str | None) -> None:
        if not self._keys:
            raise unauthorised(
                "webhook_secret is not set: copy it from JeriCommerce's integration page"
            )
        given = headers.get(SIGNATURE, "").strip()
        if not given:
            raise unauthorised(f"header {SIGNATURE} is missing")
        if not is_signed(given, body, self._keys, self._encodings):
            raise unauthorised(
                f"{SIGNATURE} does not match the body: is webhook_secret the one on "
                "JeriCommerce's integration page?"
            )

    def parse(self, headers: Mapping[str, str], body: bytes) -> Sequence[Record]:
        name = header_text(headers.get(EVENT_TYPE, "")).strip()
        if not name or len(name) > _NAME_MAX:
            raise malformed(
                f"header {EVENT_TYPE} must name the event in 1 to {_NAME_MAX} characters"
            )
        payload = parse_object(body)
        id = text_field(payload, "id", longest=_ID_MAX)
        if not id:
            raise malformed(f"`id` must be the event's id, a text of 1 to {_ID_MAX} characters")
        properties = payload.get("properties")
        if properties is not None and not isinstance(properties, dict):
            raise malformed("`properties` must be a JSON object")
        email = text_field(payload, "email")
        return [
            Record(
                key=id,
                unique_id=f"jericommerce:{id}",
                name=name,
                occurred_at=time_field(payload, "createdAt"),
                data=body,
                person=text_field(payload, "customerId"),
                email=email.lower() if email else None,
                refetch=name.replace("-", " ").casefold() in _NEW_PASS_EVENTS,
            )
        ]
