"""Yotpo Loyalty & Referrals: points, tiers and referrals. What is unsure: docs/unverified.md."""

from __future__ import annotations

from connector.adapters.kit import NOT_APPLIED, Kit
from connector.adapters.yotpo.actions import YotpoActions
from connector.adapters.yotpo.api import YotpoApi, limits
from connector.adapters.yotpo.app import open_app
from connector.adapters.yotpo.settings import Settings
from connector.adapters.yotpo.source import CustomerHistory, RecentCustomers, YotpoReader
from connector.adapters.yotpo.view import event_view, person_view
from connector.adapters.yotpo.webhook import YotpoWebhook
from connector.auth import HeaderKey
from connector.ports import Client, Platform

_NOT_APPLIED = NOT_APPLIED | {423}
"""423: the customer's record is being written."""


async def open(settings: Settings, kit: Kit) -> Client:
    """The account that the settings name."""
    secret = settings.api_key.get_secret_value()
    governor = await kit.quota(f"{settings.base_url} {settings.guid} {secret}", limits(settings))
    key = HeaderKey("x-api-key", settings.api_key)
    http = kit.http(settings.base_url, lambda: {"x-guid": settings.guid, **key()}, _NOT_APPLIED)
    api = YotpoApi(http, governor, kit.clock, kit.remember)
    app = await open_app(settings, kit, _NOT_APPLIED) if settings.api == "app" else None
    reader = YotpoReader(settings, api)

    async def aclose() -> None:
        await api.aclose()
        if app is not None:
            await app.aclose()

    return Client(
        check=reader.check,
        aclose=aclose,
        reader=reader,
        people=RecentCustomers(api),
        changes=RecentCustomers(api),
        history=CustomerHistory(api),
        actions=YotpoActions(settings, api, app or api),
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
)
