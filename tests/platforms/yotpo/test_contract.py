"""Yotpo passes the contract of platforms, with either API for adjustments."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from connector.platforms.yotpo import PLATFORM
from connector.ports import PersonRef
from connector.sandbox import YotpoSandbox
from connector.testing.contracts.platform import Double, PlatformContract, WebhookDelivery
from tests.paths import MAPPINGS

SETTINGS: dict[str, Any] = {
    "base_url": "http://127.0.0.1",
    "guid": "guid-sandbox",
    "api_key": "yotpo_sandbox",
    "webhook_secret": "whsec-0123456789",
}
APP = {
    "api": "app",
    "adjust_url": "http://127.0.0.1/app/app-1/points/adjust",
    "token_url": "http://127.0.0.1/app/oauth2/token",
    "client_id": "client-1",
    "client_secret": "client-secret-1",
    "refresh_token": "refresh-0",
}


class TestYotpo(PlatformContract):
    platform = PLATFORM
    settings = SETTINGS
    refused: ClassVar[dict[str, Any]] = {
        "base_url": "no address",
        "rate_per_second": 0,
        "repeat_window": "0s",
        "reference_format": "{title} {other}",
        "webhook_secret_header": "x y",
        "api": "both",
        "rate_per_minute": 0,
    }
    mappings = MAPPINGS

    def sign(self, delivery: WebhookDelivery, key: str) -> WebhookDelivery:
        return replace(delivery, secret=key)

    def faulty(self, path: str) -> bool:
        return not path.endswith("/token")

    def double(self) -> Double:
        sandbox = YotpoSandbox(people=120, rate_per_second=None)
        person = next(one for one in sandbox.people if len(one.history) > 1)
        return Double(
            sandbox.app,
            known_person=PersonRef(1, person.id, person.email, b""),
        )


class TestYotpoWithHeader(TestYotpo):
    settings: ClassVar[dict[str, Any]] = {**SETTINGS, "webhook_secret_header": "X-Yotpo-Code"}

    def sign(self, delivery: WebhookDelivery, key: str) -> WebhookDelivery:
        return replace(delivery, headers={**delivery.headers, "x-yotpo-code": key})


class TestYotpoApp(TestYotpo):
    settings: ClassVar[dict[str, Any]] = {**SETTINGS, **APP}
    refused: ClassVar[dict[str, Any]] = {
        "adjust_url": "",
        "client_id": "",
        "client_secret": "",
        "refresh_token": "",
    }
