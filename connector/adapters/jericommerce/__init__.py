"""JeriCommerce: wallet passes, balance and tiers. Facts and doubts: docs/platforms/jericommerce.md."""

from __future__ import annotations

from connector.adapters.jericommerce.settings import Settings
from connector.adapters.jericommerce.view import event_view
from connector.adapters.jericommerce.webhook import JeriCommerceWebhook
from connector.ports import Platform

PLATFORM = Platform(
    source="jericommerce",
    title="JeriCommerce",
    settings=Settings,
    offers=frozenset({"events"}),
    event_view=event_view,
    webhook=JeriCommerceWebhook,
)
