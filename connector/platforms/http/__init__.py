"""A platform that is described by settings alone: where its events, people and points are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from connector.domain.attention import Check
from connector.platforms.http.actions import HttpActions
from connector.platforms.http.api import QUOTA, HttpApi
from connector.platforms.http.reader import HttpReader
from connector.platforms.http.settings import Event, Settings
from connector.platforms.http.view import event_view, person_view
from connector.platforms.http.webhook import HttpWebhook
from connector.platforms.json_api import per_second
from connector.platforms.kit import Kit
from connector.ports import Client, Offer, Platform


async def open(settings: Settings, kit: Kit) -> Client:
    """The client that the settings describe."""
    if not settings.base_url:
        return Client(check=_no_checks, aclose=_no_close)
    headers = sorted(settings.headers.items())
    key = " ".join(f"{name}={value.get_secret_value()}" for name, value in headers)
    limits = {QUOTA: per_second(settings.rate_per_second)}
    api = HttpApi(settings, kit, await kit.quota(f"{settings.base_url} {key}", limits))
    reader = HttpReader(settings, settings.profile, api) if settings.profile else None
    actions = HttpActions(settings, settings.adjust, api) if settings.adjust else None
    check = reader.check if reader else _no_checks
    return Client(check=check, aclose=api.aclose, reader=reader, actions=actions)


def for_settings(settings: Settings) -> Platform:
    """The platform that these settings describe: its views follow their paths, and it offers what
    they define."""
    offers: set[Offer] = {"events"}
    if settings.profile:
        offers |= {"profiles"}
    if settings.adjust:
        offers |= {"increase", "decrease", "adjust"}
    header = settings.event.name_header
    return replace(
        PLATFORM,
        offers=frozenset(offers),
        event_view=event_view(settings.event),
        person_view=person_view(settings.profile) if settings.profile else None,
        name_header=lambda name: {header: name} if header else {},
    )


async def _no_checks() -> Sequence[Check]:
    return ()


async def _no_close() -> None: ...


PLATFORM = Platform(
    source="http",
    title="HTTP",
    settings=Settings,
    offers=frozenset({"events", "profiles", "increase", "decrease", "adjust"}),
    event_view=event_view(Event()),
    webhook=HttpWebhook,
    open=open,
    secret_in_address=lambda settings: not settings.signature_header,
    for_settings=for_settings,
)
