"""White Label Loyalty: points, tiers, rewards and audiences. What is not verified:
docs/unverified.md."""

from __future__ import annotations

from connector.platforms.json_api import per_second
from connector.platforms.kit import Kit
from connector.platforms.wll.actions import WllActions
from connector.platforms.wll.api import QUOTA, WllApi
from connector.platforms.wll.reader import WllReader
from connector.platforms.wll.settings import Settings
from connector.platforms.wll.view import event_view, person_view
from connector.platforms.wll.webhook import WllWebhook
from connector.ports import Client, Platform


async def open(settings: Settings, kit: Kit) -> Client:
    """The client of one tenant."""
    key = f"{settings.base_url} {settings.api_key.get_secret_value()}"
    # WLL allows 100 requests a second per API key, and bursts of 400.
    limiter = await kit.quota(key, {QUOTA: per_second(settings.rate_per_second)})
    api = WllApi(settings, kit, limiter)
    reader = WllReader(settings, api)
    return Client(
        check=reader.check,
        aclose=api.aclose,
        reader=reader,
        people=reader,
        audiences=reader,
        actions=WllActions(settings, api) if settings.points_event_type else None,
    )


def _missing_for_actions(settings: Settings) -> str:
    return "" if settings.points_event_type else "points_event_type and points_event_secret"


PLATFORM = Platform(
    source="wll",
    title="White Label Loyalty",
    settings=Settings,
    offers=frozenset(
        {"events", "profiles", "people", "audiences", "increase", "decrease", "adjust"}
    ),
    actions_lack=_missing_for_actions,
    person_note=(
        "White Label Loyalty knows people by its own user id. An e-mail address is resolved to a "
        "user who was seen here before; a call for anyone else is held until they are (A40)."
    ),
    event_view=event_view,
    webhook=WllWebhook,
    open=open,
    person_view=person_view,
    secret_in_address=lambda settings: True,
    webhook_note=(
        "In White Label Loyalty: for each event type, a reactor with the reaction Webhook and this "
        "address."
    ),
)
