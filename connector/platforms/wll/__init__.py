"""White Label Loyalty: points, tiers, rewards and audiences. What is unsure: docs/unverified.md."""

from __future__ import annotations

from collections.abc import Mapping

from connector.net.auth import HeaderKey, OAuthToken
from connector.platforms.kit import NOT_APPLIED, Kit
from connector.platforms.wll.actions import WllActions
from connector.platforms.wll.api import HttpClients, WllApi, limits
from connector.platforms.wll.reader import WllReader
from connector.platforms.wll.settings import Settings
from connector.platforms.wll.view import event_view, person_view
from connector.platforms.wll.webhook import WllWebhook
from connector.ports import Client, Platform


async def open(settings: Settings, kit: Kit) -> Client:
    """The tenant whose key and client the settings hold."""
    key = HeaderKey("X-Api-Key", settings.api_key)
    event_key = HeaderKey("Authorization", settings.points_event_secret, prefix="Bearer ")

    def points() -> Mapping[str, str]:
        return {**key(), **event_key()}

    token = OAuthToken(
        kit.http(settings.auth_url, dict, NOT_APPLIED),
        clock=kit.clock,
        client_id=settings.client_id,
        client_secret=settings.client_secret,
        extra={"audience": "wlloyalty.net"},
        as_json=True,
        extra_header=key,
    )
    clients = HttpClients(
        token=token,
        admin=kit.http(settings.base_url, token, NOT_APPLIED),
        public=kit.http(settings.base_url, key, NOT_APPLIED),
        points=kit.http(settings.base_url, points, kit.retry_statuses),
    )
    secret = settings.api_key.get_secret_value()
    governor = await kit.quota(f"{settings.base_url} {secret}", limits(settings))
    api = WllApi(settings, clients, governor, kit.clock, kit.record_usage)
    people = WllReader(settings, api)
    return Client(
        check=people.check,
        aclose=api.aclose,
        reader=people,
        people=people,
        audiences=people,
        actions=WllActions(settings, api) if settings.points_event_type else None,
    )


PLATFORM = Platform(
    source="wll",
    title="White Label Loyalty",
    settings=Settings,
    offers=frozenset(
        {"events", "profiles", "people", "audiences", "increase", "decrease", "adjust"}
    ),
    event_view=event_view,
    webhook=WllWebhook,
    open=open,
    person_view=person_view,
)
