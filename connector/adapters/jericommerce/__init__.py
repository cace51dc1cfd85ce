"""JeriCommerce: wallet passes, balance and tiers. What is unsure: docs/unverified.md."""

from __future__ import annotations

from connector.adapters.jericommerce.settings import Settings
from connector.adapters.jericommerce.view import event_view, person_view
from connector.adapters.jericommerce.webhook import EVENT_TYPE, JeriCommerceWebhook
from connector.ports import Platform

PLATFORM = Platform(
    source="jericommerce",
    title="JeriCommerce",
    settings=Settings,
    offers=frozenset({"events"}),
    event_view=event_view,
    webhook=JeriCommerceWebhook,
    person_view=person_view,
    name_header=lambda name: {EVENT_TYPE: name},
)
