"""JeriCommerce's webhooks: body, signature and the order of events.

The raw body is signed; the encoding (hex or base64) is not documented.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import random
import uuid
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Literal

import orjson

from connector.sandbox.jericommerce.people import EVENTS, WEB, Person, iso
from connector.sandbox.traffic import Webhook

Signature = Literal["hex", "base64"]
_CAMPAIGNS = ("spring", "summer", "autumn", "winter")
_BROWSERS = ("Safari 19", "Chrome 142", "Firefox 145")


@dataclass(frozen=True, slots=True)
class PendingEvent:
    """An event whose webhook was not sent yet."""

    name: str
    person: Person
    properties: dict[str, Any]


class WebhookFactory:
    """Creates webhooks. `legacy_share`: share of webhooks with the older body, without `email`, for
    people with an acknowledged event that had one."""

    def __init__(
        self, program: str, secret: str, signature: Signature, legacy_share: float
    ) -> None:
        self._program = program
        self._secret = secret.encode()
        self._signature = signature
        self._legacy_share = legacy_share
        self._sent_with_email: set[str] = set()
        # Each name is used once before names are random, so that a short demo has all 18.
        self._unsent = list(EVENTS)

    def next_name(self, rng: random.Random) -> str:
        """The name of the next event."""
        if self._unsent:
            return self._unsent.pop(rng.randrange(len(self._unsent)))
        (name,) = rng.choices(list(EVENTS), [weight for weight, _ in EVENTS.values()])
        return name

    def webhook(self, event: PendingEvent, moment: datetime, rng: random.Random) -> Webhook:
        """The webhook of an event."""
        person = event.person
        id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        body: dict[str, Any] = {"email": person.email, "id": id, "customerId": person.id}
        if person.id in self._sent_with_email and rng.random() < self._legacy_share:
            del body["email"]
        if event.name == "Campaign assigned":
            body["campaignId"] = str(uuid.uuid5(uuid.NAMESPACE_DNS, rng.choice(_CAMPAIGNS)))
        if event.name in WEB:
            body["url"] = f"https://jeri.link/{self._program}/loyalty/rewards"
            body["browser"] = rng.choice(_BROWSERS)
        body["createdAt"] = iso(moment)
        body["properties"] = event.properties
        raw = orjson.dumps(body)
        headers = {
            "content-type": "application/json",
            "x-jericommerce-event-type": event.name,
            "x-jericommerce-hmac-sha256": self._signed(raw),
        }
        if "email" not in body:
            return Webhook(id, headers, raw)
        return Webhook(id, headers, raw, on_accepted=partial(self._sent_with_email.add, person.id))

    def _signed(self, raw: bytes) -> str:
        digest = hmac.digest(self._secret, raw, hashlib.sha256)
        return digest.hex() if self._signature == "hex" else base64.b64encode(digest).decode()
