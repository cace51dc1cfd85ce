"""JeriCommerce: wallet passes, balance and tiers. What is not verified: docs/unverified.md."""

from __future__ import annotations

from connector.platforms.jericommerce.actions import JeriCommerceActions
from connector.platforms.jericommerce.api import QUOTA, JeriCommerceApi
from connector.platforms.jericommerce.flow import direct
from connector.platforms.jericommerce.members import JeriCommerceMembers
from connector.platforms.jericommerce.reader import JeriCommerceReader
from connector.platforms.jericommerce.settings import Settings
from connector.platforms.jericommerce.view import event_view, person_view
from connector.platforms.jericommerce.webhook import EVENT_TYPE, JeriCommerceWebhook
from connector.platforms.json_api import per_second
from connector.platforms.kit import Kit
from connector.ports import Client, Platform


async def open(settings: Settings, kit: Kit) -> Client:
    """The client of one program."""
    key = settings.api_key.get_secret_value()
    # No public page states a limit (docs/unverified.md).
    limits = {QUOTA: per_second(settings.rate_per_second)}
    api = JeriCommerceApi(settings, kit, await kit.quota(f"{settings.base_url} {key}", limits))
    reader = JeriCommerceReader(settings, api)
    return Client(
        check=reader.check,
        aclose=api.aclose,
        reader=reader,
        members=JeriCommerceMembers(settings, api),
        actions=JeriCommerceActions(settings, api),
    )


PLATFORM = Platform(
    source="jericommerce",
    title="JeriCommerce",
    settings=Settings,
    offers=frozenset({"events", "profiles", "segments", "increase", "decrease", "adjust", "push"}),
    event_view=event_view,
    webhook=JeriCommerceWebhook,
    open=open,
    person_view=person_view,
    name_header=lambda name: {EVENT_TYPE: name},
    direct=direct,
    webhook_note=(
        "In JeriCommerce: Settings → Integrations → API, enter the address and switch Events on. "
        "The secret is shown there."
    ),
)
