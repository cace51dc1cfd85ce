"""Yotpo Loyalty & Referrals: points, tiers and referrals. What is unsure: docs/unverified.md."""

from __future__ import annotations

from collections.abc import Mapping

from connector.net.auth import HeaderKey
from connector.platforms.kit import NOT_APPLIED, Kit
from connector.platforms.yotpo.actions import YotpoActions
from connector.platforms.yotpo.api import YotpoApi, limits
from connector.platforms.yotpo.app import open_app
from connector.platforms.yotpo.flow import direct
from connector.platforms.yotpo.reader import CustomerHistory, RecentCustomers, YotpoReader
from connector.platforms.yotpo.settings import Settings
from connector.platforms.yotpo.view import event_view, person_view
from connector.platforms.yotpo.webhook import YotpoWebhook
from connector.ports import Client, Platform

_BUSY = 423
"""The customer's record is being written: nothing was done."""


async def open(settings: Settings, kit: Kit) -> Client:
    """The account that the settings name."""
    secret = settings.api_key.get_secret_value()
    governor = await kit.quota(f"{settings.base_url} {settings.guid} {secret}", limits(settings))
    key = HeaderKey("x-api-key", settings.api_key)

    def credential() -> Mapping[str, str]:
        return {"x-guid": settings.guid, **key()}

    api = YotpoApi(
        kit.http(settings.base_url, credential, NOT_APPLIED | {_BUSY}),
        kit.http(settings.base_url, credential, kit.retry_statuses),
        governor,
        kit.clock,
        kit.record_usage,
    )
    app = await open_app(settings, kit) if settings.api == "app" else None
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
    direct=direct,
)
