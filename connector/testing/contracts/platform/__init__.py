"""The contract of every platform, as a test suite that an adapter runs in a few lines.

    SETTINGS = {"base_url": "http://127.0.0.1", "api_key": "k-123", "webhook_secret": "s-456"}
    REFUSED = {"base_url": "no address"}

    class TestAcme(PlatformContract):
        platform = PLATFORM
        settings = SETTINGS
        refused = REFUSED
        mappings = Path("mappings")

        def sign(self, delivery, key):
            return replace(delivery, secret=key)

        def double(self):
            known_person = PersonRef(1, "7", "ana@example.com", b"")
            return Double(acme_app(), known_person=known_person)

Deliveries are the records of the platform's mapping examples. Needs pytest, pytest-asyncio in auto
mode and Hypothesis.
"""

from __future__ import annotations

from connector.testing.contracts.platform.client import ClientTests
from connector.testing.contracts.platform.faults import FaultTests
from connector.testing.contracts.platform.settings import SettingsTests
from connector.testing.contracts.platform.webhook import WebhookTests
from connector.testing.fakes.ports import (
    READS,
    AutoAdvancingClock,
    Double,
    WebhookDelivery,
    make_kit,
)

__all__ = [
    "READS",
    "AutoAdvancingClock",
    "Double",
    "PlatformContract",
    "WebhookDelivery",
    "make_kit",
]


class PlatformContract(SettingsTests, WebhookTests, ClientTests, FaultTests):
    """Subclass it and set the attributes that have no value in PlatformSubject."""
