"""JeriCommerce: wallet passes, balance and tiers. What is unsure: docs/unverified.md."""

from __future__ import annotations

from connector.net.auth import HeaderKey
from connector.platforms.jericommerce.actions import JeriCommerceActions
from connector.platforms.jericommerce.api import HttpClients, JeriCommerceApi, limits
from connector.platforms.jericommerce.flow import direct
from connector.platforms.jericommerce.members import JeriCommerceMembers
from connector.platforms.jericommerce.reader import JeriCommerceReader
from connector.platforms.jericommerce.settings import Settings
from connector.platforms.jericommerce.view import event_view, person_view
from connector.platforms.jericommerce.webhook import EVENT_TYPE, JeriCommerceWebhook
from connector.platforms.kit import NOT_APPLIED, Kit
from connector.ports import Client, Platform


async def open(settings: Settings, kit: Kit) -> Client:
    """The program that the settings name."""
    credential = HeaderKey("api-key", settings.api_key)
    for_push = credential
    if settings.push_auth == "bearer":
        for_push = HeaderKey("Authorization", settings.api_key, prefix="Bearer ")
    secret = settings.api_key.get_secret_value()
    governor = await kit.quota(f"{settings.base_url} {secret}", limits(settings))
    clients = HttpClients(
        idempotent=kit.http(settings.base_url, credential, NOT_APPLIED),
        non_idempotent=kit.http(settings.base_url, credential, kit.retry_statuses),
        push=kit.http(settings.push_url, for_push, kit.retry_statuses),
    )
    api = JeriCommerceApi(settings, clients, governor, kit.clock, kit.record_usage)
    reader = JeriCommerceReader(settings, api)
    return Client(
        check=reader.check,
        aclose=api.aclose,
        reader=reader,
        members=JeriCommerceMembers(settings, api),
        actions=JeriCommerceActions(api, parallel=settings.max_concurrency),
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
)
