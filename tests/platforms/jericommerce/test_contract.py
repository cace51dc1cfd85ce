"""JeriCommerce passes the contract of platforms."""

from __future__ import annotations

import hmac
from dataclasses import replace
from hashlib import sha256

from connector.platforms.jericommerce import PLATFORM
from connector.platforms.jericommerce.webhook import SIGNATURE
from connector.ports import PersonRef
from connector.sandbox import JeriCommerceSandbox
from connector.testing.contracts.platform import Double, PlatformContract, WebhookDelivery
from tests.paths import MAPPINGS

SETTINGS = {
    "base_url": "http://127.0.0.1",
    "program": "demo",
    "api_key": "jeri_sandbox",
    "webhook_secret": "whsec_0123456789",
}
REFUSED = {
    "base_url": "no address",
    "program": "a/b",
    "webhook_encoding": "rot13",
    "rate_per_second": 0,
    "segment_batch": 0,
}


class TestJeriCommerce(PlatformContract):
    platform = PLATFORM
    settings = SETTINGS
    refused = REFUSED
    mappings = MAPPINGS

    def sign(self, delivery: WebhookDelivery, key: str) -> WebhookDelivery:
        digest = hmac.digest(key.encode(), delivery.body, sha256).hex()
        return replace(delivery, headers={**delivery.headers, SIGNATURE: digest})

    def double(self) -> Double:
        sandbox = JeriCommerceSandbox(people=3, rate_per_second=None)
        person = sandbox.people[0]
        return Double(sandbox.app, known_person=PersonRef(1, person.id, person.email, b""))
