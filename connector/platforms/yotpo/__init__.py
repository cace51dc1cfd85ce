"""Yotpo Loyalty & Referrals: points, tiers and referrals. What is not verified:
docs/unverified.md."""

from __future__ import annotations

import asyncio

from connector.platforms.json_api import per_second
from connector.platforms.kit import Kit
from connector.platforms.yotpo.actions import YotpoActions
from connector.platforms.yotpo.api import QUOTA, YotpoApi
from connector.platforms.yotpo.app import open_app
from connector.platforms.yotpo.flow import direct
from connector.platforms.yotpo.history import CustomerHistory
from connector.platforms.yotpo.reader import RecentCustomers, YotpoReader
from connector.platforms.yotpo.settings import Settings
from connector.platforms.yotpo.view import event_view, person_view
from connector.platforms.yotpo.webhook import YotpoWebhook
from connector.ports import Client, Platform


async def open(settings: Settings, kit: Kit) -> Client:
    """The client of one loyalty account."""
    key = f"{settings.base_url} {settings.guid} {settings.api_key.get_secret_value()}"
    limiter = await kit.quota(key, {QUOTA: per_second(settings.rate_per_second)})
    api = YotpoApi(settings, kit, limiter)
    adjust_api = await open_app(settings, kit) if settings.api == "app" else api
    reader = YotpoReader(settings, api)

    async def aclose() -> None:
        await asyncio.gather(*(used.aclose() for used in {api, adjust_api}))

    return Client(
        check=reader.check,
        aclose=aclose,
        reader=reader,
        people=RecentCustomers(api),
        changes=RecentCustomers(api),
        history=CustomerHistory(api),
        actions=YotpoActions(settings, api, adjust_api),
    )


PLATFORM = Platform(
    source="yotpo",
    title="Yotpo",
    settings=Settings,
    offers=frozenset({"events", "profiles", "people", "increase", "decrease", "adjust"}),
    event_view=event_view,
    webhook=YotpoWebhook,
    open=open,
    person_view=person_view,
    direct=direct,
    secret_in_address=lambda settings: True,
    webhook_note="In Yotpo Loyalty: Settings → General Settings → Integrations → Webhook URL.",
)
