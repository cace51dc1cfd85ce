"""A platform without Python: settings say where its deliveries, people and points are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from connector.domain.attention import Check
from connector.platforms.http.api import HttpActions, HttpReader, connect
from connector.platforms.http.settings import Event, Settings
from connector.platforms.http.view import event_view, person_view
from connector.platforms.http.webhook import HttpWebhook
from connector.platforms.kit import Kit
from connector.ports import Client, Offer, Platform


async def open(settings: Settings, kit: Kit) -> Client:
    """The sides that the settings describe."""
    if not settings.base_url:
        return Client(check=_no_checks, aclose=_no_close)
    reading, changing, governor = await connect(settings, kit)
    reader = actions = None
    if settings.profile:
        reader = HttpReader(settings, settings.profile, reading, governor)
    if settings.adjust:
        actions = HttpActions(settings, settings.adjust, changing, governor)

    async def aclose() -> None:
        await asyncio.gather(reading.aclose(), changing.aclose())

    check = reader.check if reader else _no_checks
    return Client(check=check, aclose=aclose, reader=reader, actions=actions)


def shape(settings: Settings) -> Platform:
    """The platform that these settings describe: its views follow their paths, and it offers what
    they say how to do."""
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
    for_settings=shape,
)
