"""A platform that settings describe passes the contract of platforms."""

from __future__ import annotations

import base64
import hmac
from dataclasses import replace
from hashlib import sha256
from typing import Any

from connector.platforms.http import PLATFORM
from connector.ports import PersonRef
from connector.testing.contracts.platform import Double, PlatformContract, WebhookDelivery
from tests.platforms.plugins.acme import ROOT, Acme, settings

SETTINGS = settings()
REFUSED: dict[str, Any] = {
    "base_url": "no address",
    "signature_header": "two words",
    "signature_encoding": "rot13",
    "headers": {"no header": "x"},
    "event": {"id": "a..b"},
    "profile": {"path": "/members/{name}", "view": {}},
    "adjust": {"path": "/x", "body": {"a": "{amount"}},
    "rate_per_second": 0,
}
ADDRESSED = {
    name: value for name, value in SETTINGS.items() if not name.startswith("signature_")
} | {"profile": {**SETTINGS["profile"], "path": "/v1/members/{email}?by={person}"}}


class TestSigned(PlatformContract):
    platform = PLATFORM
    settings = SETTINGS
    refused = REFUSED
    mappings = ROOT / "mappings"

    def sign(self, delivery: WebhookDelivery, key: str) -> WebhookDelivery:
        digest = hmac.digest(key.encode(), delivery.body, sha256).hex()
        return replace(
            delivery, headers={**delivery.headers, "x-acme-signature": f"sha256={digest}"}
        )

    def double(self) -> Double:
        ana = PersonRef(1, "m-7", "ana@example.com", b"")
        return Double(Acme().app, known_person=ana)


class TestInBase64(TestSigned):
    settings = SETTINGS | {"signature_encoding": "base64", "signature_prefix": ""}

    def sign(self, delivery: WebhookDelivery, key: str) -> WebhookDelivery:
        digest = base64.b64encode(hmac.digest(key.encode(), delivery.body, sha256)).decode()
        return replace(delivery, headers={**delivery.headers, "x-acme-signature": digest})


class TestAddressed(TestSigned):
    settings = ADDRESSED

    def sign(self, delivery: WebhookDelivery, key: str) -> WebhookDelivery:
        return replace(delivery, secret=key)
