"""White Label Loyalty passes the contract of platforms."""

from __future__ import annotations

from dataclasses import replace

from connector.platforms.wll import PLATFORM
from connector.ports import PersonRef
from connector.sandbox import WllSandbox
from connector.testing.contracts.platform import Double, PlatformContract, WebhookDelivery
from tests.paths import MAPPINGS

from .rig import SETTINGS

REFUSED = {
    "base_url": "no address",
    "auth_url": "no address",
    "rate_per_second": 0,
    "paths": {"user": "/users"},
}


class TestWll(PlatformContract):
    platform = PLATFORM
    settings = SETTINGS
    refused = REFUSED
    mappings = MAPPINGS

    def sign(self, delivery: WebhookDelivery, key: str) -> WebhookDelivery:
        return replace(delivery, secret=key)

    def faulty(self, path: str) -> bool:
        return path != "/oauth/token"

    def double(self) -> Double:
        sandbox = WllSandbox(people=450)
        user = next(iter(sandbox.users))
        return Double(sandbox.app, known_person=PersonRef(1, user.auth, user.email, b""))
